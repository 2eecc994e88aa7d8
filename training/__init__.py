"""Trains adapters over one frozen backbone and registers them in the model store."""
