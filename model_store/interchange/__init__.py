"""Adapters that leave a store or enter it: archives, checkpoints and the formats of other libraries."""
