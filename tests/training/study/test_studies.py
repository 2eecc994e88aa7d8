"""Trials in a storage that several workers share."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import optuna
import pytest

from training.study.grids import Point
from training.study.storage import closed, opened
from training.study.studies import Studies, Taken
from training.study.trials import Saved, State, Trial, best
from training.study.verdict import Yardstick

POINTS: list[Point] = [{"rank": 1, "lr": 0.1}, {"rank": 2, "lr": 0.1}, {"rank": 1, "lr": 0.2}]
NAMES = {"lora": "corolla/x/lora", "ssf": "corolla/x/ssf"}
YARDSTICK = Yardstick(base=0.8, chance=0.25, classes=4, images=200, epochs=6)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[optuna.storages.BaseStorage]:
    storage = opened(str(tmp_path / "trials.log"), tmp_path)
    yield storage
    closed(storage)


class Machine:
    """A worker with a folder of its own for locks, which may die."""

    def __init__(self, storage: optuna.storages.BaseStorage, locks: Path) -> None:
        self.storage, self.studies = storage, Studies(storage, NAMES, locks)
        self._alive = ExitStack()
        self._alive.enter_context(self.studies.at_work())

    def take(self, most: int = 9) -> list[Taken]:
        return self.studies.take(["lora"], most)

    def die(self) -> None:
        """As a kill does: the lock is let go of, its file stays."""
        with pytest.raises(KeyboardInterrupt), self._alive:
            raise KeyboardInterrupt


@pytest.fixture
def one(storage: optuna.storages.BaseStorage, tmp_path: Path) -> Machine:
    machine = Machine(storage, tmp_path / "locks")
    machine.studies.add("lora", POINTS)
    machine.studies.judge(YARDSTICK)
    return machine


@pytest.fixture
def other(storage: optuna.storages.BaseStorage, tmp_path: Path, one: Machine) -> Machine:
    machine = Machine(storage, tmp_path / "locks")
    machine.studies.add("lora", POINTS)
    machine.studies.judge(YARDSTICK)
    return machine


def states(machine: Machine) -> list[State]:
    return [trial.state for trial in machine.studies.history(["lora"])["lora"]]


def test_every_trial_is_given_to_one_worker(one: Machine, other: Machine) -> None:
    mine, theirs = one.take(2), other.take()
    assert [(taken.place, taken.point) for taken in [*mine, *theirs]] == [*enumerate(POINTS)]
    assert one.take() == []
    assert states(one) == [State.RUNNING] * 3


def test_the_trials_of_a_worker_that_died_wait_again_with_the_seconds_they_took(
    one: Machine, other: Machine
) -> None:
    first, second = one.take(2)
    one.studies.heartbeat(first, seconds=3.0, epoch_s=3.0)
    one.studies.end(second, State.COMPLETE, value=0.5)
    assert other.studies.revive(["lora"]) == 0
    one.die()
    assert other.studies.revive(["lora"]) == 1
    assert states(other) == [State.WAITING, State.COMPLETE, State.WAITING]
    again = {taken.place: taken for taken in other.take()}
    assert again[0].before_s == 3.0
    other.studies.end(again[0], State.FAILED, reason="diverged")
    assert states(other) == [State.FAILED, State.COMPLETE, State.RUNNING]


def test_a_worker_of_another_machine_is_dead_when_it_was_silent_for_long(
    storage: optuna.storages.BaseStorage, tmp_path: Path, one: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (taken,) = one.take(1)
    one.studies.heartbeat(taken, seconds=1.0, epoch_s=400.0)
    elsewhere = Machine(storage, tmp_path / "other")
    elsewhere.studies.add("lora", POINTS)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1990.0)
    assert elsewhere.studies.revive(["lora"]) == 0
    monkeypatch.setattr(time, "time", lambda: now + 2010.0)
    assert elsewhere.studies.revive(["lora"]) == 1


def test_a_trial_that_was_taken_and_never_signed_waits_again_soon(
    one: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "set_user_attr", killed)
        with pytest.raises(KeyboardInterrupt):
            one.take(1)
    one.die()
    assert other.studies.revive(["lora"]) == 0  # its worker may be about to sign
    monkeypatch.setattr(time, "time", lambda: now + 60.0)
    assert other.studies.revive(["lora"]) == 1
    assert len(other.take()) == len(POINTS)


def test_a_worker_that_slept_learns_that_its_trial_is_given_to_another(
    storage: optuna.storages.BaseStorage, tmp_path: Path, one: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (taken,) = one.take(1)
    elsewhere = Machine(storage, tmp_path / "other")
    elsewhere.studies.add("lora", POINTS)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 9000.0)
    assert elsewhere.studies.revive(["lora"]) == 1
    assert not one.studies.begin(taken, recipe={}, parameters=1, beside=[])
    assert not one.studies.heartbeat(taken, seconds=1.0, epoch_s=1.0)
    one.studies.report(taken, 1, 0.5)
    one.studies.end(taken, State.COMPLETE, value=0.5)
    assert states(one) == [State.WAITING] * 3


def killed(*args: object, **settings: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["enqueue_trial", "tell"])
def test_a_worker_that_is_killed_as_it_lets_trials_wait_again_loses_none(
    one: Machine, other: Machine, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.take(2)
    one.die()
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            other.studies.revive(["lora"])
    assert other.studies.revive(["lora"]) == 2
    assert sorted(taken.place for taken in other.take()) == [0, 1, 2]


def test_a_trial_whose_worker_is_killed_as_it_ends_is_not_taken_for_a_failure(
    one: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (taken,) = one.take(1)
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            one.studies.end(taken, State.COMPLETE, value=0.5)
    one.die()
    other.studies.revive(["lora"])
    assert states(other) == [State.WAITING] * 3


def test_a_worker_that_asked_in_vain_and_was_killed_leaves_nothing(
    one: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = one.take(2)
    theirs = other.studies.take(["lora"], 1)
    waiting, now = optuna.Study.get_trials, time.time()
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", killed)
        patch.setattr(optuna.Study, "get_trials", lambda self, **settings: waiting(self, deepcopy=False))
        with pytest.raises(KeyboardInterrupt):
            other.take(1)
    for taken in [*mine, *theirs]:
        one.studies.end(taken, State.COMPLETE, value=0.5)
    monkeypatch.setattr(time, "time", lambda: now + 9000.0)
    assert one.studies.revive(["lora"]) == 0
    assert states(one) == [State.COMPLETE] * 3


def test_a_trial_that_waits_twice_is_run_once(one: Machine, other: Machine) -> None:
    taken = one.take()
    one.studies.put_back(taken[0])
    study = optuna.load_study(study_name=NAMES["lora"], storage=other.storage)
    study.enqueue_trial(dict(POINTS[0]), user_attrs={"place": 0})
    assert [again.place for again in other.take()] == [0]
    assert states(one) == [State.RUNNING] * 3


def test_a_trial_far_behind_the_best_running_one_is_hopeless_once_it_is_warm(one: Machine) -> None:
    good, bad, _ = one.take()
    assert not one.studies.report(good, 1, 0.9)
    assert not one.studies.report(bad, 1, 0.5)
    assert not one.studies.report(good, 2, 0.9)
    assert one.studies.report(bad, 2, 0.8)
    assert not one.studies.report(bad, 3, 0.5)  # nobody else is there yet
    assert not one.studies.report(good, 3, 0.9)
    one.studies.end(bad, State.PRUNED, reason="far behind")
    found = one.studies.history(["lora"])["lora"][1]
    assert (found.state, found.reason, found.value) == (State.PRUNED, "far behind", None)
    assert found.values == {1: 0.5, 2: 0.8, 3: 0.5}


def test_what_packs_saved_adds_up_over_workers(one: Machine, other: Machine) -> None:
    one.studies.save("lora", Saved(packs=1, trials=4, seconds=2.0))
    other.studies.save("lora", Saved(packs=1, trials=3, seconds=1.0))
    saved = other.studies.saved(["lora", "ssf"])
    assert saved == Saved(packs=2, trials=7, seconds=3.0)


def test_a_method_is_finished_when_its_winner_is_registered_or_there_is_none(one: Machine) -> None:
    first, *rest = one.take()
    for taken in rest:
        one.studies.end(taken, State.FAILED, reason="diverged")
    assert not one.studies.finished("lora")
    one.studies.end(first, State.FAILED, reason="diverged")
    assert one.studies.finished("lora")
    assert one.studies.registered("lora") is None
    one.studies.register("lora", 3)
    assert one.studies.registered("lora") == 3


def trial(place: int, value: float | None, parameters: int = 1, **recipe: float) -> Trial:
    state = State.FAILED if value is None else State.COMPLETE
    return Trial(
        method="lora",
        place=place,
        point={},
        state=state,
        value=value,
        parameters=parameters,
        recipe={"learning_rate": 1.0, "weight_decay": 0.0} | recipe,
    )


@pytest.mark.parametrize(
    ("trials", "winner"),
    [
        ([], None),
        ([trial(0, None)], None),
        ([trial(0, 0.5), trial(1, 0.6), trial(2, None)], 1),
        ([trial(0, 0.6, 2), trial(1, 0.6, 1)], 1),
        ([trial(0, 0.6), trial(1, 0.6, learning_rate=0.5)], 1),
        ([trial(0, 0.6, weight_decay=0.1), trial(1, 0.6)], 1),
        ([trial(0, 0.6), trial(1, 0.6)], 0),
    ],
)
def test_ties_go_to_fewer_parameters_then_to_lower_rates(trials: list[Trial], winner: int | None) -> None:
    found = best(trials)
    assert (found and found.place) == winner
