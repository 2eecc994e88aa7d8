"""One process's part in a sweep: what is tried and on what, its storage, and the trials that it runs."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from pydantic import JsonValue

from model_store.store import Store
from petl_vit.errors import InvalidInput
from training.progress import Reporter, Silent
from training.run.job import Job
from training.run.precision import settled
from training.study import ground, identity
from training.study.grids import Grid, Point, spelling
from training.study.pack import Packer, joins, planned
from training.study.storage import in_use
from training.study.studies import Studies, Taken, winner
from training.study.trials import Trial

TOGETHER = 4
"""Trials of one forward, unless the user says how many, or one by one is measured to be as fast."""
_POLL_S = 2.0
_SHOWN_S = 1.0
"""Epochs are shown no more often than that."""
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
        together: Most trials of one forward; None is `TOGETHER` where that is measured to be faster.
        prune: End trials that are far behind the best of their method.
        storage: URL or journal of a storage that several machines share; None is a file below `runs`.
        restart: Forget the trials of an unfinished sweep of this name.
        workers: Processes of this machine that run trials.
        ray: Address of a Ray cluster whose tasks run trials, `local` for one of this machine, or None.
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
    workers: int = 1
    ray: str | None = None

    @property
    def folder(self) -> Path:
        """Where states, locks, log and, without a storage of its own, trials are."""
        return self.job.runs / "sweeps" / self.name


class Board(Reporter, Protocol):
    """Shows people how far a sweep is."""

    def show(self, trials: Mapping[str, Sequence[Trial]]) -> None:
        """The trials as they are now."""


class Unseen(Silent):
    """A board that nobody looks at."""

    def show(self, trials: Mapping[str, Sequence[Trial]]) -> None:
        pass


class Log:
    """A sweep's events, one JSON object a line; several workers may append to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, event: str, **fields: Any) -> None:
        """Appends a line."""
        line = json.dumps({"at": round(time.time(), 3), "event": event} | fields, ensure_ascii=False)
        with self.path.open("a") as file:
            file.write(f"{line}\n")


class Session:
    """A sweep under way; see `session`.

    Attributes:
        asked: As it was called.
        sweep: With the job's precision and the parts of its data, as they were chosen.
        threads: CPU threads of this process; None leaves the choice.
        together: Most trials of one forward, as asked for or measured.
    """

    def __init__(
        self,
        store: Store,
        asked: Sweep,
        sweep: Sweep,
        board: Board,
        tuning: ground.Tuning,
        studies: Studies,
        threads: int | None,
    ) -> None:
        self.store, self.asked, self.sweep, self.board = store, asked, sweep, board
        self.tuning, self.studies, self.threads = tuning, studies, threads
        self.log = Log(sweep.folder / "log.jsonl")
        self._seen: dict[str, list[Trial]] = {}
        self._shown = 0.0
        self.together = sweep.together or TOGETHER
        self._measured = sweep.together is not None

    def left(self) -> bool:
        """Whether trials are left to run, here or elsewhere."""
        return not all(trial.state.over for trials in self.histories().values() for trial in trials)

    def histories(self) -> dict[str, list[Trial]]:
        """The trials of each method, as they are now."""
        self._seen = self.studies.history(self.sweep.methods)
        return self._seen

    def run(self) -> None:
        """Runs trials until none is left, here or elsewhere."""
        while self.left():
            if not self.run_one() and not self.studies.revive(self.sweep.methods):
                self.board.show(self._seen)
                time.sleep(_POLL_S)  # others run what is left

    def run_one(self) -> bool:
        """Runs the next trials: several that can share a forward, or one that cannot; whether any waited."""
        alone = [method for method in self.sweep.methods if not joins(method)]
        joint = [method for method in self.sweep.methods if method not in alone]
        taken = self.studies.take(joint, self.together) or self.studies.take(alone, 1)
        if len(taken) > 1 and not self._measured:
            self._measure(taken)
        for first in range(0, len(taken), self.together):
            self._packer.run(taken[first : first + self.together])
        return bool(taken)

    def _measure(self, taken: Sequence[Taken]) -> None:
        """Decides whether trials share forwards: where a step of several takes less than theirs alone."""
        share, self._measured = self._packer.joint_share(taken), True
        said = f"a joint step of {len(taken)} trials takes {share:.2f} of their steps alone"
        if share >= 1:
            self.together = 1
            self.board.note(f"trials run one by one: {said}; --together 4 shares forwards")
        else:
            self.board.note(f"trials share forwards: {said}")

    @cached_property
    def _packer(self) -> Packer:
        sweep = self.sweep
        prepared = ground.prepare(
            self.store, sweep.job, self.tuning, sweep.folder, self.board, threads=self.threads
        )
        self.studies.judge(prepared.yardstick)
        images = len(prepared.validation)
        self.board.note(
            f"base head {prepared.yardstick.base:.3f} on the {images} validation images; trials learn the "
            f"other {len(prepared.train)}"
        )
        if images < _FEW:
            self.board.note(
                f"{images} validation images tell little: trials will tie, and fewer parameters and lower "
                "rates win ties"
            )
        return Packer(
            ground=prepared,
            studies=self.studies,
            common=sweep.job.recipe,
            states=sweep.folder / "states",
            prune=sweep.prune,
            changed=self._changed,
            note=self.board.note,
        )

    def _changed(self, taken: Taken, what: str) -> None:
        now = time.monotonic()
        if what == "epoch" and now - self._shown < _SHOWN_S:
            return
        self._shown = now
        if not self._seen:
            self.histories()
        self._seen |= self.studies.history([taken.method])
        self.log.add(what, **self._seen[taken.method][taken.place].document())
        self.board.show(self._seen)


@contextmanager
def session(store: Store, sweep: Sweep, board: Board, threads: int | None = None) -> Iterator[Session]:
    """This process's part in a sweep, which others may take part in as well.

    Raises:
        NotFound: The backbone, the data or a method do not exist.
        InvalidInput: A setting or the data cannot work, an unfinished sweep of this name is another one, or
            the storage fails.
    """
    points = {m: sweep.grid.points(m, sweep.trials, sweep.job.recipe.seed) for m in sweep.methods}
    _check(sweep, points)
    job, part = ground.on_parts(sweep.job, board)
    tuning = ground.split(store, job, sweep.validation, board, part)
    common = tuning.common() | _common(sweep)
    with in_use(sweep.storage, sweep.folder, restart=sweep.restart) as storage:
        studies = identity.matching(
            storage,
            sweep.name,
            common,
            points,
            locks=sweep.folder / "workers",
            restart=sweep.restart,
            note=board.note,
        )
        precision = identity.agreed(
            storage,
            sweep.name,
            common,
            "precision",
            lambda: settled(store, [job], board.note)[0].recipe.precision,
        )
        recipe = job.recipe.model_copy(update={"precision": precision})
        chosen = replace(sweep, job=replace(job, recipe=recipe))
        with studies.at_work():
            studies.revive([*sweep.methods, *map(winner, sweep.methods)])
            yield Session(store, sweep, chosen, board, tuning, studies, threads)


def _check(sweep: Sweep, points: Mapping[str, Sequence[Point]]) -> None:
    """Refuses what could never work, before anything is read."""
    if sweep.job.recipe.keep != "last":
        raise InvalidInput("a sweep compares last epochs", field="keep", remedy="leave it out")
    for method, several in points.items():
        for point in several:
            try:
                planned(method, point, sweep.job.recipe)
            except InvalidInput as error:
                setting = spelling((error.field or "").removeprefix(f"{method}."))
                where = f"{setting} of {method}" if setting else method
                raise InvalidInput(f"{where}: {error.problem}", field="grid", remedy=error.remedy) from None


def _common(sweep: Sweep) -> dict[str, JsonValue]:
    """What decides the result of every trial, beside its point and the images."""
    recipe = sweep.job.recipe.model_dump(mode="json", exclude={"method", "config", "keep"})
    return {"validation": sweep.validation, "grid": sweep.grid.name, **recipe}
