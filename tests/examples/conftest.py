"""The store and the server that the programs talk to."""

from tests.serving.conftest import running, world

__all__ = ["running", "world"]
