"""Shifts of images, one file for each family; pixels only."""
