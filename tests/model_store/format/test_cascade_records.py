"""What a named cascade keeps of its thresholds."""

import json

import pytest

from model_store.format.records import Cascade, CascadeMeasured, NamedRoute
from petl_vit.cascade import Score, Stage
from petl_vit.errors import Corrupt, InvalidInput

TEXT = "cascade(lora:1, ssf:1; loss<=0.002)"
MEASURED = CascadeMeasured(accuracy_loss=0.001, cost=1.2, images=500, data="a" * 64, folds=5)
CASCADE = Cascade(
    score=Score.MARGIN,
    order=(1, 0),
    stages=(Stage(threshold=2.5, temperature=1.2), Stage(temperature=1.1)),
    loss=0.002,
    measured=MEASURED,
)


def _named(**changes: object) -> NamedRoute:
    values = {"task": "digits", "name": "live", "route": TEXT, "temperature": 1.1, "cascade": CASCADE}
    return NamedRoute.of(**values | changes)


def test_a_named_cascade_is_read_back_as_it_was_written() -> None:
    named = _named()
    assert NamedRoute.parse(named.encode(), "x") == named
    assert json.loads(named.encode())["cascade"]["stages"] == [
        {"threshold": 2.5, "temperature": 1.2},
        {"threshold": None, "temperature": 1.1},
    ]


def test_routes_without_thresholds_are_written_as_before_and_old_files_are_read() -> None:
    named = NamedRoute.of(task="digits", name="both", route="lora, ssf")
    assert set(json.loads(named.encode())) == {
        "format_version",
        "task",
        "name",
        "route",
        "temperature",
        "extrapolate",
        "versions",
    }
    assert NamedRoute.parse(named.encode(), "x") == named


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"route": "lora:1, ssf:1"}, "the thresholds are of 2 members, not of lora:1, ssf:1"),
        ({"route": "cascade(a, b, c; loss<=0.002)"}, "the thresholds are of 2 members"),
        ({"route": "cascade(lora:1, ssf:1; loss<=0.1)"}, "the thresholds are for a loss of 0.002"),
        ({"temperature": 1.0}, "temperature 1.0 is not that of the cascade's last stage"),
    ],
)
def test_thresholds_that_are_not_the_routes_are_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        _named(**changes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"order": (0, 0)}, "does not have each of 2 members once"),
        ({"order": (0,)}, "does not have each of 2 members once"),
        ({"stages": (Stage(), Stage())}, "all stages but the last have a threshold"),
        ({"stages": (Stage(threshold=1), Stage(threshold=1))}, "all stages but the last have a threshold"),
        ({"loss": 1.0}, "less than 1"),
        ({"loss": float("nan")}, "finite number"),
    ],
)
def test_thresholds_that_cannot_be_are_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        Cascade.of(**dict(CASCADE) | changes)


def test_a_damaged_threshold_in_a_file_is_corrupt() -> None:
    document = json.loads(_named().encode())
    document["cascade"]["stages"][0]["temperature"] = -1
    with pytest.raises(Corrupt, match=r"temperature -1\.0 is not a finite number above 0"):
        NamedRoute.parse(json.dumps(document).encode(), "x")
