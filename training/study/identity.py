"""What makes two calls the same sweep, and what differs where they are not."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import optuna
from pydantic import JsonValue

from model_store.format.canonical import canonical_json
from petl_vit.errors import InvalidInput
from training.study.grids import Point, spelling
from training.study.studies import Studies, winner

_DIGITS = 12


def matching(
    storage: optuna.storages.BaseStorage,
    name: str,
    common: Mapping[str, JsonValue],
    points: Mapping[str, Sequence[Point]],
    *,
    locks: Path,
    restart: bool,
    note: Callable[[str], None],
) -> Studies:
    """The studies of a sweep, in which the points of its methods are or wait.

    Args:
        name: Of the sweep.
        common: What decides the result of every trial, beside its point: data, recipe, backbone.
        restart: Forget the trials of an unfinished sweep of this name.
        note: Is told what differs from a finished sweep of this name, and what is tuned anew for it.

    Raises:
        InvalidInput: A sweep of this name is unfinished and another one; says what differs.
    """
    index = optuna.create_study(storage=storage, study_name=f"corolla/{name}", load_if_exists=True)
    before, known = index.user_attrs.get("common", {}), index.user_attrs.get("studies", {})
    changed = before != dict(common)
    own = {method: _study_name(name, common, method, several) for method, several in points.items()}
    unlike = {m: known[m] for m in known if changed or (m in own and known[m] != own[m])}
    earlier = Studies(storage, unlike, locks)
    if restart:
        Studies(storage, _with_winners(known | own), locks).delete()
    elif unfinished := [method for method in unlike if not earlier.finished(method)]:
        what = _changes(before, common) or _other_trials(earlier, points, unfinished)
        raise InvalidInput(
            f"sweep {name} is unfinished ({', '.join(unfinished)}) and was another one: {what}",
            field="sweep",
            remedy="call it as before, give this one another --name, or drop the trials with --restart",
        )
    studies = Studies(storage, _with_winners(own), locks)
    for method, several in points.items():
        studies.add(method, several)
        studies.add(winner(method), [{}])
    if not restart and (others := [method for method in points if method in unlike]):
        what = _changes(before, common) or _other_trials(earlier, points, others)
        anew = [method for method in others if not studies.finished(method)]
        then = f"{', '.join(anew)} tuned anew" if anew else "tuned so before, and nothing is trained"
        note(f"sweep {name} was finished and was another one: {what}; {then}")
    index.set_user_attr("common", dict(common))
    index.set_user_attr("studies", own if changed else known | own)
    return studies


def agreed(
    storage: optuna.storages.BaseStorage,
    name: str,
    common: Mapping[str, JsonValue],
    what: str,
    choose: Callable[[], str],
) -> str:
    """What the first call of a sweep chose, for all later ones and all machines."""
    index = optuna.create_study(storage=storage, study_name=f"corolla/{name}", load_if_exists=True)
    key = f"{what} of {_digest(dict(common))}"
    if key not in index.user_attrs:
        index.set_user_attr(key, choose())
    return str(index.user_attrs[key])


def _with_winners(names: Mapping[str, str]) -> dict[str, str]:
    return dict(names) | {winner(method): f"{name}/winner" for method, name in names.items()}


def _study_name(name: str, common: Mapping[str, JsonValue], method: str, points: Sequence[Point]) -> str:
    return f"corolla/{name}/{method}/{_digest([dict(common), [dict(point) for point in points]])}"


def _digest(value: JsonValue) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()[:_DIGITS]


def _other_trials(earlier: Studies, points: Mapping[str, Sequence[Point]], methods: Sequence[str]) -> str:
    """`rank of lora was 4, 8 and is 4, 16`; or how many trials there are, where the values are the same."""
    told = []
    for method in methods:
        was, now = earlier.points(method), points[method]
        names = dict.fromkeys(name for point in (*was, *now) for name in point)
        several = {name: (_values(was, name), _values(now, name)) for name in names}
        told += [
            f"{spelling(name)} of {method} was {old or 'not varied'} and is {new or 'not varied'}"
            for name, (old, new) in several.items()
            if old != new
        ] or [_other_number(method, len(was), len(now))]
    return ", ".join(told)


def _other_number(method: str, was: int, now: int) -> str:
    """What differs where every setting has the values that it had."""
    return f"{method} tries other combinations" if was == now else f"{method} had {was} trials and has {now}"


def _values(points: Sequence[Point], name: str) -> str:
    """What a setting is in some of the points: `4, 8`."""
    return ", ".join(dict.fromkeys(str(point[name]) for point in points if name in point))


def _changes(before: Mapping[str, JsonValue], now: Mapping[str, JsonValue]) -> str:
    """`epochs was 30 and is 20, data was photos (1a2b) and is ...`"""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} was {before.get(name)} and is {now.get(name)}" for name in names)
