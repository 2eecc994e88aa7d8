"""Sweeps and soups whose process is killed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random

from benchmarks.kill.operation import Event, Found, Operation, Say, acknowledged
from benchmarks.kill.world import TASK, World, adapter, look, make, write_images
from petl_vit.errors import CorollaError
from petl_vit.precision import Precision
from training.run import soup
from training.run.job import Job
from training.run.recipe import Recipe
from training.study import sweep as sweeps
from training.study.grids import Grid
from training.study.session import Sweep, Unseen
from training.study.trials import State, Trial

_METHODS = ("bitfit", "ssf")
_RATES = (5e-4, 1e-3)


def _prepare(folder: Path) -> None:
    world = make(folder)
    write_images(folder / "images.npz")
    vit = world.vit
    for method in _METHODS:
        world.store.adapters.publish(world.draft(f"member-{method}", method), adapter(vit, 1, method))


# Sweeps


class _Telling(Unseen):
    """A board that says which trials are over, as soon as it is shown them."""

    def __init__(self, number: int, say: Say) -> None:
        super().__init__()
        self._number, self._say, self._said = number, say, set[tuple[str, int]]()

    def show(self, trials: Mapping[str, Sequence[Trial]]) -> None:
        for trial in (trial for several in trials.values() for trial in several):
            if trial.state is State.COMPLETE and (trial.method, trial.place) not in self._said:
                self._said.add((trial.method, trial.place))
                self._say("done", self._number, trial.method, trial.place, trial.value or 0.0)


def _swept(folder: Path, number: int) -> Sweep:
    """Two trials of two methods, another sweep for each number."""
    job = Job(
        backbone="tiny",
        task=TASK,
        name="-",
        data=str(folder / "images.npz"),
        holdout=0.25,
        recipe=Recipe.of(method="bitfit", epochs=3, batch_size=16, seed=number),
        runs=folder / "runs",
        measure_precision=Precision.FP32,
    )
    grid = Grid(name="tiny", methods={"*": {"learning_rate": _RATES}})
    return Sweep(name=f"sweep-{number}", grid=grid, methods=_METHODS, job=job, prune=False, together=2)


def _sweep(folder: Path, chance: Random, say: Say) -> None:
    world = World(folder)
    say("ready")
    for number in count():
        say("begun", number)
        swept = sweeps.run(world.store, _swept(folder, number), _Telling(number, say))
        for tuned in swept.methods:
            assert tuned.outcome is not None, tuned.problem
            manifest = tuned.outcome.manifest
            say("done", number, tuned.method, -1, manifest.version, manifest.digest)


def _check_swept(folder: Path, told: Sequence[Event]) -> Found:
    world = World(folder)
    found = look(world)
    begun = max(int(event.facts[0]) for event in told) if told else 0
    log = folder / "runs" / "sweeps" / f"sweep-{begun}" / "log.jsonl"
    before = len(log.read_text().splitlines()) if log.exists() else 0
    swept = sweeps.run(world.store, _swept(folder, begun), Unseen())
    values = {(t.method, t.place): t.value for tuned in swept.methods for t in tuned.trials}
    lines = map(json.loads, log.read_text().splitlines()[before:])
    again = {(line["method"], line["trial"] - 1) for line in lines if "trial" in line}
    for number, method, place, *facts in acknowledged(told):
        if place == -1:
            manifest = world.store.adapters.manifest(TASK, str(method), int(facts[0]))
            found.expect(manifest.digest == facts[1], f"{manifest} is another adapter")
        elif number == begun:
            trial = (str(method), int(place))
            found.expect(
                values.get(trial) == facts[0], f"trial {trial} is {values.get(trial)}, not {facts[0]}"
            )
            found.expect(trial not in again, f"trial {trial} was trained again")
    for tuned in swept.methods:
        found.expect_whole(tuned.outcome is not None, f"{tuned.method}: {tuned.problem}")
        versions = world.store.adapters.versions(TASK, tuned.method)
        found.expect_whole(len(versions) <= begun + 1, f"{tuned.method} has {len(versions)} versions")
    found.broken += look(world).broken
    return found


# Soups


def _souped(folder: Path, number: int) -> soup.Job:
    return soup.Job(
        backbone="tiny",
        task=TASK,
        name=f"soup-{number}",
        members=", ".join(f"member-{method}" for method in _METHODS),
        data=str(folder / "images.npz"),
        holdout=None,
        kind="uniform",
        precision=Precision.FP32,
    )


def _soup(folder: Path, chance: Random, say: Say) -> None:
    world = World(folder)
    say("ready")
    for number in count():
        say("begun", number)
        outcome = soup.run(world.store, _souped(folder, number))
        say("done", number, outcome.manifest.digest)


def _check_souped(folder: Path, told: Sequence[Event]) -> Found:
    world = World(folder)
    found, done = look(world), acknowledged(told)
    digest = ""
    for number, digest in done:  # type: ignore[assignment]
        try:
            manifest = world.store.adapters.manifest(TASK, f"soup-{number}", 1)
            world.store.adapters.load(manifest)
            found.expect(manifest.digest == digest, f"{manifest} is another soup")
        except CorollaError as error:
            found.expect(False, f"soup-{number}: {error}")
    again = soup.run(world.store, replace(_souped(folder, len(done))))
    found.expect_whole(digest in ("", again.manifest.digest), "the soup comes out otherwise")
    versions = world.store.adapters.versions(TASK, f"soup-{len(done)}")
    found.expect_whole(len(versions) == 1, f"the soup that was cut off has versions {versions}")
    found.broken += look(world).broken
    return found


SWEEP = Operation(name="sweep", prepare=_prepare, work=_sweep, check=_check_swept, writes=6)
SOUP = Operation(name="soup", prepare=_prepare, work=_soup, check=_check_souped, writes=2)
