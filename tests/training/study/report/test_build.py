"""What is left out of the page, and why; what is refused."""

import pytest

from model_store.format.records import Manifest
from petl_vit.errors import InvalidInput
from tests.training.study.report.small import small
from training.study.report import build
from training.study.report.figures.sweep import sweep_history
from training.study.report.material import Material
from training.study.report.tables.classes import worst_classes
from training.study.report.tables.everything import everything

ONE = {"photo": {"lora:1": 0.9}}


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are not drawn: what there is to say of them is told without."""
    monkeypatch.setattr("training.study.report.drawing._svg", lambda draw, width, key, title, alt: "<svg/>")


@pytest.mark.usefixtures("_undrawn")
def test_one_adapter_alone_leaves_out_what_needs_several_and_says_why() -> None:
    page = build.contents(Material(evaluation=small(ONE), no_disputed="No images were given."))
    absent = {section.key: section.absent for section in page.sections if section.absent}
    assert list(absent) == ["agreement", "ensembles", "alphas", "disputed", "sweep", "study"]
    assert absent["agreement"] == "There is only one single model, so there is no pair to compare."
    assert "--route 'lora, bitfit'" in absent["ensembles"]
    assert "No shifted set" in absent["alphas"]
    assert absent["disputed"] == "No images were given."
    assert page.cards[0].evidence == ("It is the only single model: a choice needs two or more.",)


def test_an_evaluation_without_an_adapter_is_refused_with_the_remedy() -> None:
    with pytest.raises(InvalidInput, match="has no adapter, so there is nothing to report; train one"):
        build.contents(Material(evaluation=small({"photo": {"base": 0.9}})))


@pytest.mark.usefixtures("_undrawn")
def test_numbers_of_every_figure_and_table_have_names_of_their_own() -> None:
    accuracies = {"photo": {"base": 0.8, "lora:1": 0.9, "full:1": 0.85}}
    names = [data.name for data in build.contents(Material(evaluation=small(accuracies))).data()]
    assert len(names) == len(set(names))
    assert {"accuracy-by-size", "everything", "classes", "beside-the-study", "published-alphas"} <= set(names)


def test_worst_classes_name_what_they_are_taken_for() -> None:
    table = worst_classes(Material(evaluation=small(ONE)), "lora:1")
    assert not isinstance(table, str)
    assert [cell.text for cell in table.rows[0]] == [
        "cat",
        "photo",
        "90.0\xa0%",
        "87 to 92",
        "500",
        "dog (50 images)",
    ]
    whole = worst_classes(Material(evaluation=small({"photo": {"lora:1": 1.0}})), "lora:1")
    assert whole == "lora finds every image of every class."


def manifest(sweep: dict[str, object]) -> Manifest:
    return Manifest.of(
        task="photos",
        name="lora",
        version=1,
        digest="a" * 64,
        method="lora",
        config={},
        backbone_digest="b" * 64,
        task_digest="c" * 64,
        temperature=1.0,
        metrics={},
        training={"sweep": sweep},
        created_at="2026-01-02T03:04:05Z",
    )


@pytest.mark.usefixtures("_undrawn")
def test_the_trials_of_a_sweep_are_drawn_with_what_became_of_them() -> None:
    def trial(
        number: int, rate: float, state: str, value: float | None, values: dict[str, float]
    ) -> dict[str, object]:
        recipe = {"learning_rate": rate, "weight_decay": 1e-4}
        place = {"method": "lora", "trial": number, "recipe": recipe, "config": {"rank": 8}, "seconds": 2.5}
        return {**place, "state": state, "value": value, "values": values, "reason": ""}

    trials = [
        trial(1, 1e-3, "complete", 0.9, {"3": 0.9}),
        trial(2, 1e-2, "pruned", None, {"1": 0.3, "2": 0.4}),
        trial(3, 1e-1, "failed", None, {}),
        {"method": "ssf", "trial": 1, "state": "complete", "value": 0.8},
    ]
    sweep = {"study": "s", "grid": "small", "trials": trials, "chosen": 0}
    figure = sweep_history(Material(evaluation=small(ONE), manifests={"lora:1": manifest(sweep)}))
    assert not isinstance(figure, str)
    rows = [dict(zip(figure.data.columns, row, strict=True)) for row in figure.data.rows]
    assert [(row["lr"], row["state"], row["validation_accuracy"]) for row in rows] == [
        (1e-3, "complete", 0.9),
        (1e-2, "pruned", 0.4),
        (1e-1, "failed", None),
    ]
    assert [row["chosen"] for row in rows] == [True, False, False]
    assert "`corolla sweep` tunes methods" in str(sweep_history(Material(evaluation=small(ONE))))


def test_of_many_corruptions_some_are_shown_from_the_easiest_to_the_hardest_and_all_are_in_the_data() -> None:
    easier = {f"photo fog:{place}": {"lora:1": 0.9 - place / 100} for place in range(20)}
    found = small({"photo": {"lora:1": 0.95}} | easier)
    sets = [one.model_copy(update={"shift": one.name.partition(" ")[2] or None}) for one in found.sets]
    material = Material(evaluation=found.model_copy(update={"sets": tuple(sets)}))
    shown = [one.name for one in material.shown]
    assert (len(shown), shown[0], shown[1], shown[-1]) == (7, "photo", "photo fog:0", "photo fog:19")
    table = everything(material)
    assert len(table.rows) == 7
    assert "14 more sets" in table.caption
    assert table.data is not None
    assert len(table.data.rows) == 21
