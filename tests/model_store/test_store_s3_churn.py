"""Publishers, a collector and a reader on one bucket at once, which fails at times; and moved aliases."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from model_store.format.records import Manifest
from model_store.garbage import collect
from model_store.place.cache import Cache
from model_store.place.objects import Objects
from model_store.routes.algebra import AdapterRef
from model_store.store import Store
from model_store.verification import verify
from petl_vit.errors import Conflict
from tests.model_store.s3 import S3, How
from tests.model_store.world import World

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
PUBLISHERS, EACH = 3, 2


def test_concurrent_publishers_lose_nothing_and_a_reader_always_reads_something_whole(
    s3: S3, url: str, tmp_path: Path
) -> None:
    world = World(Store.open(url), tmp_path)
    first = world.store.adapters.publish(world.draft(), world.adapter(0.5))
    for part in ("adapter.safetensors", "manifest.json", "latest"):
        s3.fail("PUT", part, How.THROTTLED, times=2)
        s3.fail("PUT", part, How.CUT)
    ended = threading.Event()

    def publish(publisher: int) -> list[Manifest]:
        store = Store.open(url)
        values = [1.0 + publisher * EACH + number for number in range(EACH)]
        return [store.adapters.publish(world.draft(), world.adapter(value)) for value in values]

    def read() -> list[int]:
        store = Store.open(url, cache=Cache(tmp_path / "cache", 10**6))
        names, seen = store.snapshot(), []
        while not ended.is_set() or not seen:
            names = names.later() or names
            manifest = Store(names).adapters.resolve(AdapterRef(name="lora"), "digits")
            store.adapters.load(manifest)  # which checks the digest
            seen.append(manifest.version)
        return seen

    def clear() -> None:
        store = Store.open(url)
        while not ended.is_set():
            collect(store, timedelta(0))

    with ThreadPoolExecutor(PUBLISHERS + 2) as pool:
        reader, collector = pool.submit(read), pool.submit(clear)
        try:
            published = [one for several in pool.map(publish, range(PUBLISHERS)) for one in several]
        finally:
            ended.set()
        seen = reader.result()
        collector.result()

    store = Store.open(url)
    collect(store, timedelta(0))
    assert len({manifest.version for manifest in published}) == PUBLISHERS * EACH
    assert store.adapters.versions("digits", "lora") == sorted(
        [first.version, *(manifest.version for manifest in published)]
    )
    assert all(store.adapters.manifest("digits", "lora", m.version) == m for m in published)
    assert store.adapters.version_of("digits", "lora", "latest") == max(m.version for m in published)
    assert seen == sorted(seen), "latest never moves backwards"
    report = verify(store)
    assert (report.problems, report.leftovers) == ([], [])


def test_of_many_that_move_an_alias_from_one_version_one_succeeds(s3: S3, url: str, tmp_path: Path) -> None:
    world = World(Store.open(url), tmp_path)
    for value in (1.0, 2.0, 3.0, 4.0):
        world.store.adapters.publish(world.draft(), world.adapter(value))
    world.store.adapters.set_alias("digits", "lora", "prod", 1)

    def move(version: int) -> int | None:
        try:
            Store.open(url).adapters.set_alias("digits", "lora", "prod", version, expected=1)
        except Conflict:
            return None
        return version

    with ThreadPoolExecutor(3) as movers:
        moved = [version for version in movers.map(move, (2, 3, 4)) if version is not None]
    assert [world.store.adapters.version_of("digits", "lora", "prod")] == moved


def test_swaps_of_several_processes_on_a_bucket_lose_no_increment(s3: S3, url: str) -> None:
    s3.fail("PUT", "/n", How.CUT)

    def count(_: int) -> None:
        place = Objects.open(url)
        for _ in range(3):
            place.swap("n", lambda data: str(int(data or b"0") + 1).encode())

    with ThreadPoolExecutor(3) as counters:
        list(counters.map(count, range(3)))
    # What was cut was done; whoever swapped before that was noticed has hidden it, so that it is done again.
    assert Objects.open(url).read("n") in (b"9", b"10")
