"""Merges of adapters in their folded space, one file for each kind; docs/merges.md has the equations."""
