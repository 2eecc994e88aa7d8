"""The store and the server that the programs talk to."""

from tests.serving.conftest import certificates, running, world

__all__ = ["certificates", "running", "world"]
