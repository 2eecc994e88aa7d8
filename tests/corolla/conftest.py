"""The stores and servers that other tests use, for the commands that talk to them."""

from tests.model_store.conftest import _s3_server, s3, url
from tests.serving.conftest import certificates, own_world, running, world

__all__ = ["_s3_server", "certificates", "own_world", "running", "s3", "url", "world"]
