"""Accuracy against the number of trained parameters, one mark for each adapter."""

from matplotlib.figure import Figure as Canvas

from training.measure.document import EvaluatedRoute
from training.study.report.contents import Data, Figure
from training.study.report.drawing import Width, drawn, label_below, panels, percent_axis, size_axis
from training.study.report.families import FAMILIES, OTHER, family
from training.study.report.figures.labels import Label, place
from training.study.report.material import Material
from training.study.report.theme import colour
from training.study.report.words import listed, percent

_DODGE = 1.08  # between models of one size
_MARKED = ("linear", "full")


def accuracy_by_size(material: Material) -> Figure:
    """The figure, on the reference set."""
    name = material.reference.name
    title = f"Accuracy on {name} against trained parameters"
    best = material.measured(material.models)[:3]
    alt = (
        f"{len(material.models)} models. The most accurate are "
        + listed([f"{material.short(one.route)} with {percent(one.accuracy)}" for one in best])
        + "."
    )
    wide, narrow = drawn(lambda width: _draw(material, width), "size", title, alt)
    return Figure(
        title=title,
        caption="Each mark is one adapter, with Wilson's 95 % interval. The trained parameters do not "
        "count the head, which all of them train; models of one size stand side by side." + _lines(material),
        wide=wide,
        narrow=narrow,
        data=_data(material),
    )


def _lines(material: Material) -> str:
    """A sentence on the dashed lines; empty where there is none."""
    groups = [group for group in material.groups if _has_line(group)]
    names = listed([material.group_name(group) for group in groups])
    return f" The dashed {'line is' if len(groups) == 1 else 'lines are'} at {names}." if groups else ""


def _has_line(group: list[EvaluatedRoute]) -> bool:
    """The base, heads alone and whole backbones: what the others are held against."""
    return group[0].kind == "base" or group[0].method in _MARKED


def _draw(material: Material, width: Width) -> Canvas:
    canvas, (axes,) = panels(width, 430 if width.narrow else 470)
    sizes = [route.parameters for route in material.models if route.parameters]
    smallest = min(sizes, default=1000)
    labels, bars = [], []
    for group in material.groups:
        marks = _marks(material, group, smallest)
        if not marks:
            continue
        kind = family(group[0].method)
        for x, y, low, high in marks:
            axes.plot([x, x], [low, high], color=colour(kind.colour), linewidth=1.1, alpha=0.7)
            axes.plot(x, y, kind.marker, color=colour(kind.colour), markersize=7)
            bars.append((x, low, high))
        x, y, *_ = marks[len(marks) // 2]
        strong = _has_line(group)
        labels.append(Label(x=x, y=y, text=material.group_name(group), colour=kind.colour, strong=strong))
        if strong:
            axes.axhline(y, color=colour(kind.colour), linestyle=(0, (4, 4)), linewidth=0.9)
    size_axis(axes, smallest / 2)
    axes.set_xlim(-smallest / 5, max(sizes, default=1000) * 2.5)
    percent_axis(axes, "y")
    axes.margins(y=0.08)
    axes.set_xlabel("trained parameters, without the head")
    axes.set_ylabel("accuracy")
    shown = [one for one in (*FAMILIES, OTHER) if any(family(r.method) == one for r in material.models)]
    handles = [axes.plot([], [], one.marker, color=colour(one.colour), linestyle="none")[0] for one in shown]
    label_below(canvas, handles, [one.title for one in shown], width)
    place(canvas, axes, labels, bars=bars)
    return canvas


def _marks(
    material: Material, group: list[EvaluatedRoute], smallest: int
) -> list[tuple[float, float, float, float]]:
    """x, accuracy, low and high of each model of a group; models of one size stand side by side."""
    marks = []
    for route in group:
        result = material.result(route.label)
        if result is not None:
            alike = [one.label for one in material.models if one.parameters == route.parameters]
            step = alike.index(route.label) - (len(alike) - 1) / 2
            x = route.parameters * _DODGE**step if route.parameters else 0.05 * smallest * step
            marks.append((x, result.accuracy, result.low, result.high))
    return marks


def _data(material: Material) -> Data:
    rows = []
    for one in material.evaluation.sets:
        for route in material.models:
            result = material.result(route.label, one.name)
            if result is not None:
                rows.append(
                    (
                        one.name,
                        route.text,
                        route.method,
                        route.seed,
                        route.parameters,
                        result.accuracy,
                        result.low,
                        result.high,
                    )
                )
    columns = ("set", "route", "method", "seed", "parameters", "accuracy", "low", "high")
    return Data(name="accuracy-by-size", columns=columns, rows=tuple(rows))
