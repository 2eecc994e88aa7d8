"""Collecting garbage while the process is killed: what is needed stays, and the rest goes the next time."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random

from benchmarks.kill.operation import Event, Found, Operation, Say, acknowledged
from benchmarks.kill.world import TASK, World, adapter, look, make
from model_store.format import keys
from model_store.format.records import Tombstone
from model_store.garbage import collect
from petl_vit.errors import CorollaError

_NOW = timedelta(0)


def _prepare(folder: Path) -> None:
    make(folder)


def _collect(folder: Path, chance: Random, say: Say) -> None:
    world = World(folder)
    store, vit = world.store, world.vit
    say("ready")
    for number in count():
        kept = store.adapters.publish(world.draft("lora"), adapter(vit, chance.randrange(2**31)))
        say("done", kept.version, kept.digest)
        _litter(world, number, chance)
        say("begun", number)
        collect(store, _NOW)
        say("done", 0, number)


def _litter(world: World, number: int, chance: Random) -> None:
    """Leaves what a killed publisher and a killed deletion leave."""
    store, vit = world.store, world.vit
    store.place.create(keys.adapter(TASK, "orphan", number + 1, "adapter.safetensors"), b"half")
    doomed = store.adapters.publish(world.draft("doomed"), adapter(vit, chance.randrange(2**31)))
    tombstone = Tombstone(digest=doomed.digest, deleted_at=datetime.now(UTC))
    store.place.create(keys.adapter(TASK, "doomed", doomed.version, "deleted.json"), tombstone.encode())


def _check(folder: Path, told: Sequence[Event]) -> Found:
    world = World(folder)
    found, adapters = look(world), world.store.adapters
    for version, digest in acknowledged(told):
        if version == 0:
            continue
        try:
            manifest = adapters.manifest(TASK, "lora", int(version))
            adapters.load(manifest)
            found.expect(manifest.digest == digest, f"{manifest} is another adapter")
        except CorollaError as error:
            found.expect(False, f"lora:{version}: {error}")
    collect(world.store, _NOW)
    again = look(world)
    found.broken += again.broken
    found.expect_whole(not again.leftovers, f"after a collection there are {dict(again.leftovers)}")
    return found


GARBAGE = Operation(name="gc", prepare=_prepare, work=_collect, check=_check, writes=10)
