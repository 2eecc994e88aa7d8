"""The classes that are found least often, and what they are taken for."""

from scipy.stats import binomtest

from training.measure.figures import Result
from training.study.report.contents import Cell, Data, Table
from training.study.report.material import Material
from training.study.report.words import counted, listed, percent

WORST = 3
"""Classes of each set."""


def worst_classes(material: Material, label: str) -> Table | str:
    """The worst classes of one route on every set, or that there are none."""
    rows = []
    for one in material.shown:
        result = material.result(label, one.name)
        if result is not None:
            rows += [_row(material, result, number) for number in _worst(result)]
    if not rows:
        return f"{material.short(label)} finds every image of every class."
    return Table(
        title=f"Worst classes of {material.short(label)}",
        caption=f"The {WORST} classes of each set with the smallest share of images that are found "
        "(recall), with Wilson's 95 % interval, and what the others are taken for.",
        columns=("class", "set", "found", "interval", "images", "taken for"),
        rows=tuple(rows),
        data=_data(material),
    )


def _worst(result: Result) -> list[int]:
    recalls = [(one.recall, number) for number, one in enumerate(result.per_class) if one.recall is not None]
    return [number for recall, number in sorted(recalls)[:WORST] if recall < 1]


def _row(material: Material, result: Result, number: int) -> tuple[Cell, ...]:
    support = result.per_class[number].support
    right = round((result.per_class[number].recall or 0.0) * support)
    interval = binomtest(right, support).proportion_ci(method="wilson")
    return (
        Cell(text=material.evaluation.classes[number], strong=True),
        Cell(text=result.set),
        Cell(text=percent(right / support), sort=right / support, number=True),
        Cell(text=f"{100 * interval.low:.0f} to {100 * interval.high:.0f}", number=True),
        Cell(text=f"{support:,}", sort=support, number=True),
        Cell(text=_taken_for(material, result, number)),
    )


def _taken_for(material: Material, result: Result, number: int) -> str:
    """horse (12 images), dog (3 images)."""
    if result.confusion is None:
        return "not recorded for so many classes"
    row = result.confusion[number]
    wrong = sorted(
        ((count, other) for other, count in enumerate(row) if other != number and count), reverse=True
    )
    shown = [
        f"{material.evaluation.classes[other]} ({counted(count, 'image')})" for count, other in wrong[:3]
    ]
    if len(wrong) > 3:
        shown.append(counted(len(wrong) - 3, "other class", "other classes"))
    return listed(shown)


def _data(material: Material) -> Data:
    shown = {one.name for one in material.shown}
    rows = [
        (result.set, result.route, name, one.support, one.recall, one.precision, one.f1)
        for result in material.evaluation.results
        if result.set in shown
        for name, one in zip(material.evaluation.classes, result.per_class, strict=True)
    ]
    columns = ("set", "route", "class", "images", "recall", "precision", "f1")
    return Data(name="classes", columns=columns, rows=tuple(rows))
