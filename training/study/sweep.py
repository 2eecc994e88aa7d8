"""A sweep: every method's grid is tried on a validation part, and each method's winner is registered.

    grids -> trials that wait in a storage -> packs of trials in one forward -> a winner for each method
    -> trained on train and validation part as `corolla train` would -> registered with the trials' history

Finished trials are not repeated, by whoever calls the same sweep again: a trial that was interrupted goes on
from its last epoch on the machine that has its state, and begins anew on another.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import JsonValue

from model_store.store import Store
from petl_vit.errors import CorollaError, InvalidInput, NotFound
from training.progress import Reporter
from training.run import job as jobs
from training.run.job import Job, Outcome
from training.run.precision import settled
from training.run.recipe import Recipe
from training.study import ground, identity
from training.study.grids import Grid, Point
from training.study.pack import Packer, joins, planned
from training.study.studies import Studies, Taken, closed, opened
from training.study.trials import Saved, Trial, best

TOGETHER = 4
"""Trials of one forward, unless the user says how many."""
_POLL_S = 2.0
_FEW = 50
"""Of fewer validation images than these a note is made."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What to try, and on what.

    Attributes:
        name: Of the sweep; calls of one name go on with one another's trials.
        methods: In the order in which they are tried.
        trials: Most trials of a method; None is the whole grid.
        job: The run of a winner but for its name and recipe; its recipe is what all trials have in common.
        validation: Share of the training images that trials are measured on, where there is no part for it.
        together: Most trials of one forward; None chooses.
        prune: End trials that are far behind the best of their method.
        storage: URL or journal of a storage that several machines share; None is a file below `runs`.
        restart: Forget the trials of an unfinished sweep of this name.
    """

    name: str
    grid: Grid
    methods: Sequence[str]
    job: Job
    trials: int | None = None
    validation: float = 0.2
    together: int | None = None
    prune: bool = True
    storage: str | None = None
    restart: bool = False

    @property
    def folder(self) -> Path:
        """Where states, locks, log and, without a storage of its own, trials are."""
        return self.job.runs / "sweeps" / self.name


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What came of one method.

    Attributes:
        trials: In the order of its grid.
        winner: None where no trial is complete.
        outcome: The registered adapter; None where there is none.
        problem: Why there is none; empty otherwise.
    """

    method: str
    trials: Sequence[Trial]
    winner: Trial | None
    outcome: Outcome | None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What came of a sweep."""

    methods: Sequence[Tuned]
    saved: Saved
    log: Path


class Board(Reporter, Protocol):
    """Shows people how far a sweep is."""

    def show(self, trials: Mapping[str, Sequence[Trial]]) -> None:
        """The trials as they are now."""


def run(store: Store, sweep: Sweep, board: Board) -> Swept:
    """Tunes every method and registers each one's winner.

    Raises:
        NotFound: The backbone, the data or a method do not exist.
        InvalidInput: A setting or the data cannot work, or an unfinished sweep of this name is another one.
    """
    points = {m: sweep.grid.points(m, sweep.trials, sweep.job.recipe.seed) for m in sweep.methods}
    _check(sweep, points)
    job, part = ground.on_parts(settled(store, [sweep.job], board.note)[0], board)
    sweep = replace(sweep, job=job)
    tuning = ground.split(store, job, sweep.validation, board, part)
    common = tuning.common() | _common(sweep)
    storage = opened(sweep.storage, sweep.folder)
    try:
        studies = identity.matching(
            storage, sweep.name, common, points, locks=sweep.folder / "workers", restart=sweep.restart
        )
        with studies.at_work():
            return _Run(store, sweep, board, tuning, studies).swept()
    finally:
        closed(storage)


class _Run:
    """The steps of a sweep, in order of `swept`."""

    def __init__(
        self, store: Store, sweep: Sweep, board: Board, tuning: ground.Tuning, studies: Studies
    ) -> None:
        self._store, self._sweep, self._board = store, sweep, board
        self._tuning, self._studies = tuning, studies
        self._log = Log(sweep.folder / "log.jsonl")

    def swept(self) -> Swept:
        methods = list(self._sweep.methods)
        self._studies.revive(methods)
        if self._left():
            self._trials()
        saved = self._studies.saved(methods)
        histories = self._studies.history(methods)
        self._board.show(histories)
        winners = {method: best(trials) for method, trials in histories.items()}
        tuned = self._retrained(histories, winners, saved)
        return Swept(methods=tuned, saved=saved, log=self._log.path)

    def _left(self) -> bool:
        """Whether trials are left to run."""
        histories = self._studies.history(self._sweep.methods)
        return not all(trial.state.over for trials in histories.values() for trial in trials)

    def _trials(self) -> None:
        """Runs trials until none waits, here or elsewhere."""
        sweep, studies = self._sweep, self._studies
        prepared = ground.prepare(self._store, sweep.job, self._tuning, sweep.folder, self._board)
        studies.judge(prepared.yardstick)
        self._board.note(
            f"base head {prepared.yardstick.base:.3f} on the {len(prepared.validation)} validation images; "
            f"trials learn the other {len(prepared.train)}"
        )
        if len(prepared.validation) < _FEW:
            self._board.note(
                f"{len(prepared.validation)} validation images tell little: trials will tie, and fewer "
                "parameters and lower rates win ties"
            )
        packer = Packer(
            ground=prepared,
            studies=studies,
            common=sweep.job.recipe,
            states=sweep.folder / "states",
            prune=sweep.prune,
            changed=self._changed,
        )
        while self._left():
            if taken := next_pack(studies, sweep.methods, sweep.together or TOGETHER):
                packer.run(taken)
            elif not studies.revive(sweep.methods):
                time.sleep(_POLL_S)  # others run what is left

    def _changed(self, taken: Taken, what: str) -> None:
        histories = self._studies.history(self._sweep.methods)
        trial = histories[taken.method][taken.place]
        self._log.add(what, **trial.document())
        self._board.show(histories)

    def _retrained(
        self,
        histories: Mapping[str, Sequence[Trial]],
        winners: Mapping[str, Trial | None],
        saved: Saved,
    ) -> list[Tuned]:
        """Trains the winners on all training images, together where they can, and registers them."""
        runs = {
            method: replace(
                self._sweep.job,
                name=method.replace("_", "-"),
                recipe=Recipe.of(**winner.recipe),
                sweep=self._record(histories[method], winner, saved),
            )
            for method, winner in winners.items()
            if winner is not None
        }
        outcomes: dict[str, Outcome] = {}
        problems = {m: "no trial is complete" for m, winner in winners.items() if winner is None}
        known = {method: outcome for method in runs if (outcome := self._known(method))}
        outcomes |= known
        left = [method for method in runs if method not in known]
        for pack in _packs(left, self._sweep.together or TOGETHER):
            done, failed = self._run_pack({method: runs[method] for method in pack})
            outcomes |= done
            problems |= failed
        return [
            Tuned(
                method=method,
                trials=histories[method],
                winner=winners[method],
                outcome=outcomes.get(method),
                problem=problems.get(method, ""),
            )
            for method in self._sweep.methods
        ]

    def _run_pack(self, pack: Mapping[str, Job]) -> tuple[dict[str, Outcome], dict[str, str]]:
        """The adapters of winners that share their forwards; each alone where they fail together."""
        try:
            outcomes = jobs.run_together(self._store, [*pack.values()], self._board)
        except CorollaError as error:
            if len(pack) == 1:
                method = next(iter(pack))
                self._log.add("unregistered", method=method, reason=str(error))
                return {}, {method: str(error)}
            done: dict[str, Outcome] = {}
            failed: dict[str, str] = {}
            for method, job in pack.items():
                one, problem = self._run_pack({method: job})
                done |= one
                failed |= problem
            return done, failed
        for method, outcome in zip(pack, outcomes, strict=True):
            self._studies.register(method, outcome.manifest.version)
            self._log.add("registered", method=method, adapter=str(outcome.manifest))
        return dict(zip(pack, outcomes, strict=True)), {}

    def _known(self, method: str) -> Outcome | None:
        """The adapter that the winner of a method became in an earlier call, if it is still there."""
        version = self._studies.registered(method)
        if version is None or self._sweep.job.again:
            return None
        task, name = self._sweep.job.task, method.replace("_", "-")
        try:
            manifest = self._store.adapters.manifest(task, name, version)
        except NotFound:
            return None
        latest = self._store.adapters.version_of(task, name, "latest")
        return Outcome(manifest=manifest, reused=True, latest=latest)

    def _record(self, trials: Sequence[Trial], winner: Trial, saved: Saved) -> dict[str, JsonValue]:
        """What the manifest of a winner says of its sweep."""
        return {
            "study": self._sweep.name,
            "grid": self._sweep.grid.name,
            "validation": self._sweep.validation,
            "train_images": len(self._tuning.train),
            "validation_images": len(self._tuning.validation),
            "trials": [trial.document() for trial in trials],
            "chosen": winner.place,
            "joint": {name: round(value, 3) for name, value in vars(saved).items()},
        }


def next_pack(studies: Studies, methods: Sequence[str], together: int) -> list[Taken]:
    """The next trials that one worker runs: several that can share a forward, or one that cannot."""
    alone = [method for method in methods if not joins(method)]
    joint = [method for method in methods if method not in alone]
    return studies.take(joint, together) or studies.take(alone, 1)


class Log:
    """A sweep's events, one JSON object a line; several workers may append to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, event: str, **fields: Any) -> None:
        line = json.dumps({"at": round(time.time(), 3), "event": event} | fields, ensure_ascii=False)
        with self.path.open("a") as file:
            file.write(f"{line}\n")


def _packs(methods: Sequence[str], together: int) -> list[list[str]]:
    joint = [method for method in methods if joins(method)]
    packs = [joint[start : start + together] for start in range(0, len(joint), together)]
    return packs + [[method] for method in methods if method not in joint]


def _check(sweep: Sweep, points: Mapping[str, Sequence[Point]]) -> None:
    """Refuses what could never work, before anything is read."""
    if sweep.job.recipe.keep != "last":
        raise InvalidInput("a sweep compares last epochs", field="keep", remedy="leave it out")
    for method, several in points.items():
        if not several:
            raise InvalidInput(f"grid {sweep.grid.name} has no trials of {method}", field="grid")
        for point in several:
            try:
                planned(method, point, sweep.job.recipe)
            except InvalidInput as error:
                raise InvalidInput(f"{method}: {error}", field="grid", remedy=error.remedy) from None


def _common(sweep: Sweep) -> dict[str, JsonValue]:
    """What decides the result of every trial, beside its point and the images."""
    recipe = sweep.job.recipe.model_dump(mode="json", exclude={"method", "config", "keep"})
    return {"validation": sweep.validation, "grid": sweep.grid.name, **recipe}
