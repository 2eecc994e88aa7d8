"""A sweep: every method's grid is tried on a validation part, and each method's winner is registered.

    grids -> trials that wait in a storage -> packs of trials in one forward -> a winner for each method
    -> trained on train and validation part as `corolla train` would -> registered with the trials' history

Finished trials are not repeated, by whoever calls the same sweep again: a trial that was interrupted goes on
from its last epoch on the machine that has its state, and begins anew on another.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue

from model_store.store import Store
from petl_vit.errors import CorollaError, NotFound
from training.run import job as jobs
from training.run.job import Job
from training.run.outcome import Outcome
from training.run.recipe import Recipe
from training.study.pack import joins
from training.study.session import Board, Session, Sweep, session
from training.study.studies import Taken, winner
from training.study.trials import Saved, State, Trial, best
from training.study.workers import run_in_processes, run_on_ray

_POLL_S = 2.0


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


def run(store: Store, sweep: Sweep, board: Board, *, url: str | None = None) -> Swept:
    """Tunes every method and registers each one's winner.

    Args:
        url: Of the store, for workers in processes of their own.

    Raises:
        NotFound: The backbone, the data or a method do not exist.
        InvalidInput: A setting or the data cannot work, or an unfinished sweep of this name is another one.
    """
    with session(store, sweep, board) as here:
        if here.left():
            _say_what_is_done(here, board)
            if sweep.ray is not None:
                run_on_ray(here, url)
            elif sweep.workers > 1:
                run_in_processes(here, url)
            here.run()
        return _Winners(here).registered()


def _say_what_is_done(here: Session, board: Board) -> None:
    trials = [trial for several in here.histories().values() for trial in several]
    if done := sum(trial.state.over for trial in trials):
        board.note(f"going on: {done} of {len(trials)} trials are done")


class _Winners:
    """The winners of a sweep whose trials are over."""

    def __init__(self, here: Session) -> None:
        self._store, self._sweep, self._board = here.store, here.sweep, here.board
        self._tuning, self._studies, self._log = here.tuning, here.studies, here.log
        self._together = here.together

    def registered(self) -> Swept:
        """Trains and registers those that are not registered yet."""
        methods = list(self._sweep.methods)
        histories, saved = self._studies.history(methods), self._studies.saved(methods)
        self._board.show(histories)
        winners = {method: best(trials) for method, trials in histories.items()}
        tuned = self._retrained(histories, winners, saved)
        return Swept(methods=tuned, saved=saved, log=self._log.path)

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
        left = [*runs]
        while left:
            known = {method: outcome for method in left if (outcome := self._known(method))}
            outcomes |= known
            claims = {m: claim for m in left if m not in known and (claim := self._claim(m))}
            for pack in _packs([*claims], self._together):
                self._announce({method: winners[method] for method in pack})
                done, failed = self._run_pack({method: runs[method] for method in pack})
                outcomes |= done
                problems |= failed
                for method in pack:
                    self._settle(claims[method], done=method in done)
            left = [m for m in left if m not in known and m not in claims]
            if left and not self._studies.revive([winner(method) for method in left]):
                time.sleep(_POLL_S)  # another machine trains them
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

    def _announce(self, pack: Mapping[str, Trial | None]) -> None:
        chosen = ", ".join(f"{trial} ({trial.settings})" for trial in pack.values() if trial is not None)
        images = len(self._tuning.dataset)
        whose = "the winner" if len(pack) == 1 else "the winners"
        self._board.note(f"training {whose} {chosen} on all {images} training images, to register")

    def _claim(self, method: str) -> Taken | bool | None:
        """The right to train the winner of a method; true where the adapter that it was is gone."""
        gone = self._studies.registered(method) is not None
        return gone or self._studies.claim(method)

    def _settle(self, claim: Taken | bool, *, done: bool) -> None:
        """Ends a claim; one that failed may be taken again by a later call."""
        if isinstance(claim, Taken):
            if done:
                self._studies.end(claim, State.COMPLETE, value=1.0)
            else:
                self._studies.put_back(claim)

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


def _packs(methods: Sequence[str], together: int) -> list[list[str]]:
    joint = [method for method in methods if joins(method)]
    packs = [joint[start : start + together] for start in range(0, len(joint), together)]
    return packs + [[method] for method in methods if method not in joint]
