"""The stores and servers that the tests of serving use, for the commands that talk to them."""

from tests.serving.conftest import certificates, own_world, running, world

__all__ = ["certificates", "own_world", "running", "world"]
