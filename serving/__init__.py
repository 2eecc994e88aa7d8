"""Answers requests from one resident backbone: the server, its protocols, its metrics and its clients."""
