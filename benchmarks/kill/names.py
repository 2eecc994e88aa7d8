"""Registering adapters, switching an alias and deleting, while the process is killed."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random

from benchmarks.kill.operation import Event, Found, Operation, Say, acknowledged, cut_off
from benchmarks.kill.world import TASK, World, adapter, look, make
from model_store import deletion
from model_store.format import keys
from model_store.names import LATEST
from petl_vit.errors import CorollaError, NotFound

_VERSIONS = 4
_NAMES = 3
_OTHER = "passing"


def _prepare(folder: Path) -> None:
    make(folder)


# Registering


def _register(folder: Path, chance: Random, say: Say) -> None:
    world = World(folder)
    vit = world.vit
    say("ready")
    for number in count():
        name = f"a{number % _NAMES}"
        tensors = adapter(vit, chance.randrange(2**31))
        say("begun", name)
        manifest = world.store.adapters.publish(world.draft(name), tensors)
        say("done", name, manifest.version, manifest.digest)


def _check_registered(folder: Path, told: Sequence[Event]) -> Found:
    world = World(folder)
    found, adapters, begun = look(world), world.store.adapters, cut_off(told)
    newest = dict[str, int]()
    for name, version, digest in acknowledged(told):
        newest[str(name)] = int(version)
        try:
            manifest = adapters.manifest(TASK, str(name), int(version))
            adapters.load(manifest)
            found.expect(manifest.digest == digest, f"{manifest} is another adapter")
        except CorollaError as error:
            found.expect(False, f"{name}:{version}: {error}")
    for name, version in newest.items():
        more = [v for v in adapters.versions(TASK, name) if v > version]
        found.expect_whole(
            len(more) <= ((name,) == begun), f"{name} has versions {more} that nobody registered"
        )
        latest = adapters.version_of(TASK, name, LATEST)
        found.expect(latest in (version, *more), f"latest of {name} is {latest}, not {version}")
    again = adapters.publish(world.draft("a0"), adapter(world.vit, 2**31))
    latest = adapters.version_of(TASK, "a0", LATEST)
    found.expect_whole(latest == again.version, f"after {again} was registered, latest is {latest}")
    return found


# Switching an alias


def _prepare_versions(folder: Path) -> None:
    world = make(folder)
    vit = world.vit
    for seed in range(_VERSIONS):
        world.store.adapters.publish(world.draft("lora"), adapter(vit, seed))


def _switch(folder: Path, chance: Random, say: Say) -> None:
    world, version = World(folder), 0
    say("ready")
    while True:
        version = chance.choice([v for v in range(1, _VERSIONS + 1) if v != version])
        say("begun", version)
        world.store.adapters.set_alias(TASK, "lora", "prod", version)
        say("done", version)


def _check_switched(folder: Path, told: Sequence[Event]) -> Found:
    world = World(folder)
    found, moves, begun = look(world), [move for (move,) in acknowledged(told)], cut_off(told)
    points_at = world.store.adapters.version_of(TASK, "lora", "prod")
    last: list[str | int | float | None] = [*moves[-1:]] or [None]
    possible = [*last, *(begun or ())]
    found.expect(points_at in possible, f"prod is {points_at}, not {' or '.join(map(str, possible))}")
    records = world.store.history.of(keys.alias(TASK, "lora", "prod"))
    recorded = [int(record.after) for record in records]
    found.expect(recorded[: len(moves)] == moves[: len(recorded)], "the history is not what was done")
    found.expect(len(recorded) >= min(len(moves), 1000), f"{len(moves)} moves, {len(recorded)} are recorded")
    before = world.store.adapters.set_alias(TASK, "lora", "prod", 1, expected=points_at)
    found.expect_whole(before == points_at, "the alias cannot be moved on")
    return found


# Deleting


def _delete(folder: Path, chance: Random, say: Say) -> None:
    world = World(folder)
    store, vit = world.store, world.vit
    say("ready")
    for number in count():
        task = world.put_task(_OTHER, vit)
        for name, of in (("lora", None), ("lora", None), ("other", task)):
            store.adapters.publish(world.draft(name, task=of), adapter(vit, chance.randrange(2**31)))
        for version in chance.sample(store.adapters.versions(TASK, "lora"), 2):
            say("begun", "version", version)
            deletion.delete(store, TASK, "lora", version)
            say("done", "version", version)
        say("begun", "task", number)
        deletion.delete_task(store, deletion.task_deletion(store, [task], with_adapters=True))
        say("done", "task", number)


def _check_deleted(folder: Path, told: Sequence[Event]) -> Found:
    world = World(folder)
    found, store, begun = look(world), world.store, cut_off(told)
    deleted = [int(version) for what, version in acknowledged(told) if what == "version"]
    there = store.adapters.versions(TASK, "lora")
    found.expect(not set(deleted) & set(there), f"{sorted(set(deleted) & set(there))} came back")
    if begun is not None and begun[0] == "version":
        with suppress(NotFound):  # it was deleted as far as anybody can tell, or its deletion goes on
            deletion.delete(store, TASK, "lora", int(begun[1]))
        found.expect_whole(int(begun[1]) not in store.adapters.versions(TASK, "lora"), "it is still there")
    if begun is not None and begun[0] == "task":
        with suppress(NotFound):
            rest = deletion.task_deletion(store, [store.tasks.get(_OTHER)], with_adapters=True)
            deletion.delete_task(store, rest)
        found.expect_whole(not store.tasks.list(_OTHER), "the task is still there")
    latest = store.adapters.version_of(TASK, "lora", LATEST)
    left: list[int | None] = [*store.adapters.versions(TASK, "lora")]
    found.expect_whole(latest in (left or [None]), f"latest is {latest}, which is gone")
    new = store.adapters.publish(world.draft("lora"), adapter(world.vit, 2**31))
    found.expect_whole(new.version > max([*deleted, *there], default=0), f"{new} has a number that was taken")
    found.broken += look(world).broken
    return found


REGISTER = Operation(name="register", prepare=_prepare, work=_register, check=_check_registered)
ALIAS = Operation(name="alias switch", prepare=_prepare_versions, work=_switch, check=_check_switched)
DELETE = Operation(name="delete", prepare=_prepare_versions, work=_delete, check=_check_deleted)
