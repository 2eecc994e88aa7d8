"""A server over S3 that throttles, hangs and is gone: it answers what it has, and says what it cannot."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store.store import Store
from serving.client.messages import RequestFailed
from tests.model_store.conftest import _s3_server, s3, url  # noqa: F401 fixtures
from tests.model_store.s3 import S3, How
from tests.serving.overload.servers import Ours, ask, same
from tests.serving.world import World

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


class InBucket(World):
    """A copy of a world in a bucket."""

    def __init__(self, world: World, place: str) -> None:
        super().__init__(world.folder)
        self.store = Store.open(place)
        for file in world.folder.rglob("*"):
            if file.is_file() and file.name != ".lock":
                self.store.place.create(str(file.relative_to(world.folder)), file.read_bytes())


@pytest.fixture
def over_s3(world: World, url: str, s3: S3, tmp_path: Path) -> Iterator[Ours]:  # noqa: F811
    bucket = InBucket(world, url)
    with Ours(bucket, store=url, prediction_key_file=str(tmp_path / "key"), refresh_s=0.05) as running:
        yield running


def test_what_is_in_memory_is_answered_while_s3_throttles_hangs_or_is_gone(
    over_s3: Ours,
    s3: S3,  # noqa: F811
) -> None:
    with over_s3.client() as client:
        expected = ask(client, "lora")

        throttled = s3.fail("GET", "adapters/shapes/ssf/", How.THROTTLED, times=2)
        assert ask(client, "ssf"), "after it was asked again"
        assert throttled.happened == 2

        s3.fail("GET", "adapters/shapes/bitfit/", How.HANGS, times=100)
        with over_s3.client(timeout_s=2.0) as hurried, pytest.raises(RequestFailed) as caught:
            ask(hurried, "bitfit")
        assert caught.value.code == "DEADLINE_EXCEEDED"
        same(ask(client, "lora"), expected)
        assert ask(client, "layernorm"), "which S3 still hands out"

        s3.fail("GET", "", How.REFUSED, times=10**6)
        with pytest.raises(RequestFailed, match="the store cannot be read or written") as caught:
            ask(client, "adaptformer")
        assert caught.value.code == "UNAVAILABLE"
        same(ask(client, "lora"), expected)
        assert client.serving()

        s3.reset()
        assert ask(client, "adaptformer"), "without a restart"
