"""Whose turn it is, and what computes."""
