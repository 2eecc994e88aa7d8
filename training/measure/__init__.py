"""How good and how honest routes are on labelled images."""
