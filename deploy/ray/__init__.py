"""Replicas of the server on Ray Serve, behind its gRPC ingress."""
