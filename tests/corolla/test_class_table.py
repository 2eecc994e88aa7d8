"""The table of classes of an evaluation."""

import pytest

from corolla.class_table import class_table
from tests.training.study.report.documents import CLASSES, evaluation
from training.measure.document import Evaluation


@pytest.fixture(scope="module")
def found() -> Evaluation:
    return evaluation(("ssf", "lora"), sets=("photo", "sketch"))


def rows(found: Evaluation) -> list[list[str]]:
    return [
        list(row)
        for row in zip(*(map(str, column.cells) for column in class_table(found).columns), strict=True)
    ]


def test_each_class_of_each_set_is_that_of_the_most_accurate_route_there(found: Evaluation) -> None:
    assert [(row[0], row[2]) for row in rows(found)] == [(s, c) for s in ("photo", "sketch") for c in CLASSES]
    for row in rows(found):
        best = max((one for one in found.results if one.set == row[0]), key=lambda one: one.accuracy)
        figures = best.per_class[CLASSES.index(row[2])]
        shares = [f"{share:.3f}" for share in (figures.precision, figures.recall, figures.f1) if share]
        assert row[1:7] == [best.route, row[2], str(figures.support), *shares]


def test_the_wrong_answers_are_the_confusion_matrix_without_its_diagonal(found: Evaluation) -> None:
    for row in rows(found):
        best = max((one for one in found.results if one.set == row[0]), key=lambda one: one.accuracy)
        assert best.confusion is not None
        true = CLASSES.index(row[2])
        said = dict(one.rsplit(" ", 1) for one in row[7].split(", ")) if row[7] else {}
        off = {CLASSES[i]: str(n) for i, n in enumerate(best.confusion[true]) if n and i != true}
        assert said == off
        assert [*map(int, said.values())] == sorted(map(int, said.values()), reverse=True)
    assert any(", " in row[7] for row in rows(found))


def test_what_is_not_known_of_a_class_stays_empty(found: Evaluation) -> None:
    first = max((one for one in found.results if one.set == "photo"), key=lambda one: one.accuracy)
    empty = first.per_class[0].model_copy(
        update={"precision": None, "recall": None, "f1": None, "support": 0}
    )
    bare = first.model_copy(update={"per_class": (empty, *first.per_class[1:]), "confusion": None})
    few = found.model_copy(update={"results": (bare,), "sets": found.sets[:1]})
    assert rows(few)[0][3:] == ["0", "", "", "", ""]
    assert {row[7] for row in rows(few)} == {""}
