from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store.store import Store
from tests.model_store.s3 import HAS_MOTO, S3, serving
from tests.model_store.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(Store.open(str(tmp_path / "store")), tmp_path / "store")


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[S3]:
    if not HAS_MOTO:
        pytest.skip("moto[server] is not installed")
    with serving() as server:
        yield server


@pytest.fixture
def s3(_s3_server: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The server of the S3 protocol, the variables that lead to it, and a cache folder; nothing fails yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", _s3_server.address)
    _s3_server.reset()
    return _s3_server


@pytest.fixture
def url(s3: S3, tmp_path: Path) -> str:
    """A store of this test in the bucket."""
    return s3.url(tmp_path.name)
