"""S3 that throttles, breaks off, times out and lists stale: nothing is lost, nothing is done twice."""

from pathlib import Path

import pytest

from model_store.place.objects import Objects
from model_store.routes.algebra import AdapterRef
from model_store.store import Store
from model_store.verification import verify
from petl_vit.errors import Conflict, Unreachable
from tests.model_store.s3 import S3, How
from tests.model_store.world import World

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
LOST = [How.THROTTLED, How.BROKEN, How.CUT]


def add(data: bytes | None) -> bytes:
    return (data or b"") + b"1"


@pytest.mark.parametrize("how", LOST)
def test_what_fails_once_is_done_once(s3: S3, url: str, how: How) -> None:
    place = Objects.open(url)
    for operation in ("GET", "PUT", "PUT", "PUT", "POST"):
        s3.fail(operation, "", how)
    assert place.read("none") is None
    assert place.create("a", b"1")
    place.swap("a", add)
    place.swap("b", add)
    place.delete("b")
    assert (place.read("a"), place.read("b")) == (b"11", None)
    assert not place.create("a", b"2")


def test_a_write_whose_answer_never_comes_is_asked_for_again(
    s3: S3, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_TIMEOUT", "0.3 seconds")
    place = Objects.open(url)
    s3.fail("PUT", "", How.HANGS)
    place.swap("a", add)
    s3.fail("GET", "/a", How.HANGS)
    assert place.read("a") == b"1"


@pytest.mark.parametrize("how", LOST)
def test_a_publication_with_lost_answers_is_one_version(s3: S3, url: str, tmp_path: Path, how: How) -> None:
    world = World(Store.open(url), tmp_path)
    for part in ("adapter.safetensors", "manifest.json", "/latest"):
        s3.fail("PUT", part, how)
    first = world.store.adapters.publish(world.draft(), world.adapter(1.0))
    assert (first.version, world.store.adapters.aliases("digits", "lora")) == (1, {"latest": 1})
    s3.fail("PUT", "/prod", how)
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    report = verify(world.store)
    assert (report.problems, report.leftovers) == ([], [])


def test_a_compare_and_swap_whose_answer_is_lost_is_not_a_conflict_and_a_real_one_is(
    s3: S3, url: str, tmp_path: Path
) -> None:
    world = World(Store.open(url), tmp_path)
    for value in (1.0, 2.0, 3.0):
        world.store.adapters.publish(world.draft(), world.adapter(value))
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    s3.fail("PUT", "/prod", How.CUT)
    assert world.store.adapters.set_alias("digits", "lora", "prod", 2, expected=1) == 1
    s3.fail("PUT", "/prod", How.THROTTLED)
    with pytest.raises(Conflict, match="points at version 2"):
        world.store.adapters.set_alias("digits", "lora", "prod", 3, expected=1)


def test_a_bucket_that_refuses_or_keeps_throttling_is_a_clear_error_that_names_the_key(
    s3: S3, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Objects.open(url)
    s3.fail("PUT", "", How.REFUSED)
    with pytest.raises(Unreachable, match=r"^a: the store cannot be read or written .* permissions"):
        place.create("a", b"1")
    assert [method for method, _ in s3.asked] == ["PUT"]
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    throttled = s3.fail("PUT", "", How.THROTTLED, times=99)
    with pytest.raises(Unreachable, match=r"^a: "):
        place.create("a", b"1")
    assert throttled.happened == 5


def test_stale_lists_cost_a_publisher_nothing_and_a_reader_no_name(s3: S3, url: str, tmp_path: Path) -> None:
    world = World(Store.open(url), tmp_path)
    publish = world.store.adapters.publish
    publish(world.draft(), world.adapter(1.0))
    names = Store.open(url).snapshot()
    with s3.stale_lists():
        names = names.later() or names
        versions = [publish(world.draft(), world.adapter(value)).version for value in (2.0, 3.0)]
        assert versions == [2, 3]
        assert world.store.adapters.version_of("digits", "lora", "latest") == 3
    latest = AdapterRef(name="lora")
    assert Store(names.later() or names).adapters.resolve(latest, "digits").version == 3


def test_a_name_that_an_older_listing_lacks_stays_until_it_is_gone(s3: S3, url: str, tmp_path: Path) -> None:
    place = Objects.open(url)
    place.create("routes/t/before", b"1")
    with s3.stale_lists() as stale:
        Store(place).snapshot()
        place.create("routes/t/new", b"1")
    names = Store(place).snapshot()
    with s3.stale_lists(stale):
        names = names.later() or names
        assert names.keys("routes") == ["routes/t/before", "routes/t/new"]
        place.delete("routes/t/new")
        names = names.later() or names
    assert names.keys("routes") == ["routes/t/before"]
