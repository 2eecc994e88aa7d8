"""Labelled images: where they are, how they are split, shifted and loaded."""
