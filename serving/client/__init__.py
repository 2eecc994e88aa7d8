"""Clients for programs; no torch."""
