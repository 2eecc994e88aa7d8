"""Captions tell only of what is drawn."""

import pytest

from tests.training.study.report.small import curve, joined, small
from training.study.report.figures.accuracy import accuracy_by_size
from training.study.report.figures.curves import alpha_curves
from training.study.report.figures.ensembles import ensemble_gain
from training.study.report.material import Material
from training.study.report.tables.everything import everything

JOINT = {"base": 0.8, "bitfit:1": 0.91, "lora:1": 0.92, "lora:1, bitfit:1": 0.93}


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.study.report.drawing._svg", lambda draw, width, key, title, alt: "<svg/>")


@pytest.mark.parametrize(
    ("models", "lines"),
    [
        (("base", "linear:1", "lora:1"), " The dashed lines are at base and linear."),
        (("lora:1", "full:1"), " The dashed line is at full."),
        (("lora:1",), "side by side."),
    ],
)
def test_the_dashed_lines_are_named(models: tuple[str, ...], lines: str) -> None:
    found = accuracy_by_size(Material(evaluation=small({"photo": dict.fromkeys(models, 0.9)})))
    assert found.caption.endswith(lines)


@pytest.mark.parametrize("over_control", [None, 0.01])
def test_a_control_is_explained_where_there_is_one(over_control: float | None) -> None:
    joint = joined(0.01, over_control)
    found = ensemble_gain(Material(evaluation=small({"photo": JOINT}, ensembles=(joint,))))
    assert not isinstance(found, str)
    there = over_control is not None
    assert ("The control is" in found.caption, "seeds" in found.title) == (there, there)


def test_seeds_are_not_mentioned_where_every_adapter_is_drawn() -> None:
    curves = (curve("lora:1", (0.8, 0.9, 0.92), (0.6, 0.7, 0.6)),)
    accuracies = {"lora:1": 0.92}
    found = alpha_curves(
        Material(evaluation=small({"photo": accuracies, "sketch": accuracies}, curves=curves))
    )
    assert not isinstance(found, str)
    assert found.caption.endswith("Up and right is better.")


def test_a_single_model_has_no_agreement() -> None:
    table = everything(Material(evaluation=small({"photo": JOINT})))
    cells = {row[0].text: row[table.columns.index("agreement")].text for row in table.rows}
    assert cells == {"base": "–", "bitfit": "–", "lora": "–", "lora, bitfit": "100.0"}
    assert table.data is not None
    place = table.data.columns.index("agreement")
    assert [row[place] for row in table.data.rows] == [None, None, None, 1.0]
