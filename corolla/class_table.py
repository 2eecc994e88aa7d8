"""How the best route of each set answers each class: precision, recall, and what it takes the images for."""

from collections.abc import Sequence

from rich.table import Table

from corolla import tables
from training.measure.document import Evaluation
from training.measure.figures import Result


def class_table(evaluation: Evaluation) -> Table:
    """A row for each class of each set as it is, by the most accurate route there."""
    table = tables.table_of(
        "set", "route", "class", "images", "precision", "recall", "F1", "its wrong answers"
    )
    for on in (one for one in evaluation.sets if one.shift is None):
        for row in _rows(best_on(evaluation, on.name), evaluation.classes):
            table.add_row(*row)
    return table


def best_on(evaluation: Evaluation, on: str) -> Result:
    """The result of the most accurate route on a set; of equal ones the first."""
    return max((one for one in evaluation.results if one.set == on), key=lambda one: one.accuracy)


def _rows(best: Result, classes: Sequence[str]) -> list[list[str]]:
    return [
        [
            best.set,
            best.route,
            name,
            str(figures.support),
            *(_share(share) for share in (figures.precision, figures.recall, figures.f1)),
            _wrong(best, place, classes),
        ]
        for place, (name, figures) in enumerate(zip(classes, best.per_class, strict=True))
    ]


def _wrong(best: Result, true: int, classes: Sequence[str]) -> str:
    """The off-diagonal cells of a class's row of the confusion matrix, the largest first: `cat 3, dog 1`."""
    if best.confusion is None:
        return ""
    cells = [(n, classes[said]) for said, n in enumerate(best.confusion[true]) if n and said != true]
    return ", ".join(f"{name} {n}" for n, name in sorted(cells, key=lambda cell: -cell[0]))


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
