"""The trials of a sweep in an Optuna storage, which several workers and machines may share.

Each method has a study of its own, in which its points wait from the start, so that which trials there are
depends neither on the workers nor on what came out first. Optuna gives a waiting trial to one worker only.
A worker holds a lock while it lives; the running trials of one that died wait again.
"""

import fcntl
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from pydantic import JsonValue

from training.study.grids import Point
from training.study.interrupted import END, is_interrupted, is_repeated, lost, wait_again
from training.study.trials import Saved, State, Trial, best
from training.study.verdict import Pruner, Yardstick

_SILENT_S, _EPOCHS = 600.0, 5.0
"""A worker of another machine is taken for dead after so long, or so many epochs, without one."""
_UNSIGNED_S = 30.0
"""So long a trial may be without the name of its worker, which is written next after it is taken."""
_PACK = "pack "
_RANK = {State.COMPLETE: 4, State.PRUNED: 3, State.FAILED: 2, State.RUNNING: 1, State.WAITING: 0}
_STATES = {
    TrialState.WAITING: State.WAITING,
    TrialState.RUNNING: State.RUNNING,
    TrialState.COMPLETE: State.COMPLETE,
    TrialState.PRUNED: State.PRUNED,
    TrialState.FAIL: State.FAILED,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Taken:
    """A trial that this worker runs.

    Attributes:
        before_s: Seconds that an earlier worker spent on it, which died.
    """

    method: str
    place: int
    point: Point
    handle: optuna.Trial
    before_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.method} {self.place + 1}"


class Studies:
    """The studies of one sweep.

    Args:
        storage: Where they are.
        names: The name of each method's study.
        locks: Folder for the locks of this machine's workers.
    """

    def __init__(self, storage: optuna.storages.BaseStorage, names: Mapping[str, str], locks: Path) -> None:
        self._storage, self._names, self._locks = storage, names, locks
        self._studies: dict[str, optuna.Study] = {}
        self._worker = uuid.uuid4().hex

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Marks this worker as alive, so that others leave its trials alone."""
        self._locks.mkdir(parents=True, exist_ok=True)
        path = self._locks / f"{self._worker}.lock"
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield  # when it fails, the file stays: a lock that nobody holds says that the worker is dead
            path.unlink(missing_ok=True)

    # Points

    def add(self, method: str, points: Sequence[Point]) -> None:
        """Lets the points of a method wait, unless they do already."""
        study = self._study(method)
        choices = {name: _values(name, points) for name in points[0]}
        study.set_user_attr("points", list(points))
        study.set_user_attr("choices", choices)
        there = {trial.user_attrs.get("place") for trial in study.get_trials(deepcopy=False)}
        for place, point in enumerate(points):
            if place not in there:
                study.enqueue_trial(dict(point), user_attrs={"place": place})

    def points(self, method: str) -> Sequence[Point]:
        """The points of a method that were added, in any call."""
        points: list[Point] = self._study(method).user_attrs.get("points", [])
        return points

    def judge(self, yardstick: Yardstick) -> None:
        """From now on the trials are pruned by this yardstick."""
        for study in self._studies.values():
            study.pruner = Pruner(yardstick)

    def take(self, methods: Sequence[str], most: int) -> list[Taken]:
        """The next waiting trials, at most so many, in the order of the methods; this worker has them."""
        taken: list[Taken] = []
        for method in methods:
            while len(taken) < most and (one := self._next(method)):
                taken.append(one)
        return taken

    def history(self, methods: Sequence[str]) -> dict[str, list[Trial]]:
        """The trials of each method in the order of its points, as they are now."""
        return {method: self._history(method) for method in methods}

    # What becomes of a trial

    def begin(
        self, taken: Taken, *, recipe: Mapping[str, JsonValue], parameters: int, beside: Sequence[str]
    ) -> bool:
        """Takes note of what is trained; returns whether the trial is still this worker's."""
        trained = {"recipe": dict(recipe), "parameters": parameters, "beside": list(beside)}
        return _noted(taken, "trained", trained)

    def heartbeat(self, taken: Taken, *, seconds: float, epoch_s: float) -> bool:
        """Takes note of an epoch: of the seconds of the trial so far, and how long the epoch took.

        Returns:
            Whether the trial is still this worker's: one that was silent for long is taken for dead.
        """
        return _noted(taken, "signs", {"at": time.time(), "epoch_s": epoch_s, "seconds": seconds})

    def report(self, taken: Taken, epoch: int, accuracy: float) -> bool:
        """Takes note of a validation accuracy; returns whether the trial is hopeless."""
        with suppress(UpdateFinishedTrialError):  # the next heartbeat says so
            taken.handle.report(accuracy, epoch)
        return taken.handle.should_prune()

    def end(self, taken: Taken, state: State, *, value: float | None = None, reason: str = "") -> None:
        """Ends a trial. One that another worker ended meanwhile stays as it is."""
        ends = {
            State.COMPLETE: TrialState.COMPLETE,
            State.PRUNED: TrialState.PRUNED,
            State.FAILED: TrialState.FAIL,
        }
        _noted(taken, END, [str(ends[state].name), reason])  # first: what is told is over
        values = value if state is State.COMPLETE else None
        self._study(taken.method).tell(taken.handle, values, state=ends[state], skip_if_finished=True)

    def put_back(self, taken: Taken) -> None:
        """Lets a trial that was taken wait again."""
        self._restart(self._study(taken.method), taken.handle.number)

    def revive(self, methods: Sequence[str]) -> int:
        """Lets the trials of workers that died wait again; returns how many."""
        revived = 0
        for method in methods:
            study = self._study(method)
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if self._is_dead(trial):
                    revived += self._restart(study, trial.number)
            revived += sum(wait_again(study, trial) for trial in lost(study))
        return revived

    # What came of a method

    def finished(self, method: str) -> bool:
        """Whether nothing is left to do: the winner is registered, or no trial is or will be complete."""
        trials = self._history(method)
        over = bool(trials) and all(trial.state.over for trial in trials)
        return self.registered(method) is not None or (over and best(trials) is None)

    def claim(self, method: str) -> Taken | None:
        """The right to register the winner of a method; None where another worker has it."""
        claims = self.take([winner(method)], 1)
        return claims[0] if claims else None

    def save(self, method: str, saved: Saved) -> None:
        """Takes note of what a pack saved whose first trial is of this method."""
        self._study(method).set_user_attr(f"{_PACK}{uuid.uuid4().hex}", vars(saved))

    def saved(self, methods: Sequence[str]) -> Saved:
        """What the packs of the methods saved, those of other workers and earlier calls among them."""
        attributes = [item for method in methods for item in self._study(method).user_attrs.items()]
        return sum((Saved(**value) for key, value in attributes if key.startswith(_PACK)), Saved())

    def delete(self) -> None:
        """Forgets all trials."""
        for name in self._names.values():
            with suppress(KeyError):
                optuna.delete_study(study_name=name, storage=self._storage)
        self._studies.clear()

    def registered(self, method: str) -> int | None:
        """The version of the adapter that the winner of a method became; None before."""
        found = self._study(method).user_attrs.get("registered")
        return None if found is None else int(found)

    def register(self, method: str, version: int) -> None:
        """Takes note of the version of the adapter that the winner of a method became."""
        self._study(method).set_user_attr("registered", version)

    def _study(self, method: str) -> optuna.Study:
        if method not in self._studies:
            self._studies[method] = optuna.create_study(
                storage=self._storage,
                study_name=self._names[method],
                direction="maximize",
                load_if_exists=True,
                sampler=optuna.samplers.RandomSampler(seed=0),  # never asked: every trial's point is given
            )
        return self._studies[method]

    def _next(self, method: str) -> Taken | None:
        study = self._study(method)
        while study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            handle = study.ask(
                {
                    name: optuna.distributions.CategoricalDistribution(values)
                    for name, values in study.user_attrs["choices"].items()
                }
            )
            if "place" in handle.user_attrs and not is_repeated(study, handle):
                return self._signed(method, handle)
            study.tell(handle, state=TrialState.FAIL)  # of another worker, which was faster
        return None

    def _signed(self, method: str, handle: optuna.Trial) -> Taken:
        """A trial that is this worker's from now on."""
        points, attributes = self.points(method), handle.user_attrs
        handle.set_user_attr("worker", self._worker)
        handle.set_user_attr("signs", {"at": time.time(), "epoch_s": _SILENT_S, "seconds": 0.0})
        return Taken(
            method=method,
            place=attributes["place"],
            point=points[attributes["place"]],
            handle=handle,
            before_s=attributes.get("before_s", 0.0),
        )

    def _history(self, method: str) -> list[Trial]:
        study, points = self._study(method), self.points(method)
        trials: dict[int, Trial] = {}
        for one in study.get_trials(deepcopy=False):
            place = one.user_attrs.get("place")
            if place is None or is_interrupted(one):
                continue
            trial = _trial(method, points, place, one)
            if place not in trials or _RANK[trials[place].state] < _RANK[trial.state]:
                trials[place] = trial
        return [
            trials.get(place, Trial(method=method, place=place, point=point))
            for place, point in enumerate(points)
        ]

    def _restart(self, study: optuna.Study, number: int) -> bool:
        """Lets the point of a running trial wait again; whether it was still running."""
        one = study.get_trials(deepcopy=False)[number]
        try:
            study.tell(number, state=TrialState.FAIL)
        except (ValueError, RuntimeError):  # another worker was faster
            return False
        return wait_again(study, one)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        """Whether the worker of a running trial is no more."""
        worker, signs = trial.user_attrs.get("worker"), trial.user_attrs.get("signs")
        if worker == self._worker:
            return False
        alive = None if worker is None else _holds_lock(self._locks / f"{worker}.lock")
        if alive is not None:
            return not alive
        if signs is None:  # killed between asking and signing
            started = trial.datetime_start
            return started is None or time.time() - started.timestamp() > _UNSIGNED_S
        return bool(time.time() - signs["at"] > max(_SILENT_S, _EPOCHS * signs["epoch_s"]))


def winner(method: str) -> str:
    """What the study is called that has one trial: to register the winner of a method."""
    return f"{method} winner"


def _noted(taken: Taken, name: str, value: object) -> bool:
    """Takes note of something about a trial, unless it is over: it may have been given to another worker."""
    try:
        taken.handle.set_user_attr(name, value)
    except UpdateFinishedTrialError:
        return False
    return True


def _holds_lock(path: Path) -> bool | None:
    """Whether a process holds the lock of a file; None where there is no such file."""
    with suppress(FileNotFoundError), path.open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False
    return None


def _trial(method: str, points: Sequence[Point], place: int, one: FrozenTrial) -> Trial:
    attributes: dict[str, Any] = one.user_attrs
    trained = attributes.get("trained", {})
    state = _STATES[one.state]
    return Trial(
        method=method,
        place=place,
        point=points[place],
        state=state,
        reason=attributes.get(END, ["", ""])[1],
        value=one.value if state is State.COMPLETE else None,
        values=dict(sorted(one.intermediate_values.items())),
        recipe=trained.get("recipe", {}),
        parameters=trained.get("parameters", 0),
        seconds=attributes.get("before_s", 0.0) + attributes.get("signs", {}).get("seconds", 0.0),
        beside=tuple(trained.get("beside", ())),
    )


def _values(name: str, points: Sequence[Point]) -> list[Any]:
    return list(dict.fromkeys(point[name] for point in points))
