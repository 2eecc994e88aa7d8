"""Trials whose worker died: their points wait again in other trials, once each.

A worker may die at any moment, also while it tells how a trial ended or lets the trial of another wait again.
"""

import optuna
from optuna.trial import FrozenTrial, TrialState

END = "end"
"""The attribute with the state in which a worker ended a trial, and why."""


def is_interrupted(one: FrozenTrial) -> bool:
    """Whether a trial has failed because its worker died, or was one too many."""
    state, _ = one.user_attrs.get(END, ("", ""))
    return one.state is TrialState.FAIL and state != TrialState.FAIL.name


def wait_again(study: optuna.Study, one: FrozenTrial) -> bool:
    """Lets the point of an interrupted trial wait in another one; false of one without a point."""
    place = one.user_attrs.get("place")
    if place is None:
        return False
    seconds = one.user_attrs.get("before_s", 0.0) + one.user_attrs.get("signs", {}).get("seconds", 0.0)
    points = study.user_attrs["points"]
    study.enqueue_trial(dict(points[place]), user_attrs={"place": place, "before_s": seconds})
    return True


def lost(study: optuna.Study) -> list[FrozenTrial]:
    """Interrupted trials whose points wait nowhere, as who let them wait again was killed meanwhile."""
    interrupted, there = dict[int, FrozenTrial](), set[int]()
    for one in study.get_trials(deepcopy=False):
        place = one.user_attrs.get("place")
        if place is not None and is_interrupted(one):
            interrupted[place] = one
        elif place is not None:
            there.add(place)
    return [one for place, one in interrupted.items() if place not in there]


def is_repeated(study: optuna.Study, handle: optuna.Trial) -> bool:
    """Whether the point of a trial is over in another one, or runs in an earlier one: it waited twice."""
    return any(
        one.number != handle.number
        and one.user_attrs.get("place") == handle.user_attrs["place"]
        and not is_interrupted(one)
        and (one.state.is_finished() or (one.state is TrialState.RUNNING and one.number < handle.number))
        for one in study.get_trials(deepcopy=False)
    )
