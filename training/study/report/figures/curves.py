"""WiSE: accuracy on the reference set against that on shifted sets along alpha, one line for each adapter."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from training.measure.figures import Curve
from training.study.report.contents import Data, Figure
from training.study.report.drawing import Width, drawn, label_below, panels, percent_axis
from training.study.report.families import FAMILIES, OTHER, family
from training.study.report.figures.labels import Label, place
from training.study.report.material import Material
from training.study.report.published_results import SOURCE, Interpolated, interpolated
from training.study.report.theme import colour
from training.study.report.words import percent


def alpha_curves(material: Material) -> Figure | str:
    """The figure, or why there is none."""
    curves, shifted = material.evaluation.curves, material.shown[1:]
    if not shifted:
        return (
            "No shifted set was measured. `corolla evaluate` takes more --data of the same classes, or "
            "--shift."
        )
    if not curves:
        return "No adapter was measured along alpha. `corolla evaluate --alphas` does it."
    alike = len(_shown(material)) < len(curves)
    title = f"Accuracy on {material.reference.name} and on shifted sets, between frozen and trained"
    parts = []
    for curve in _shown(material):
        here, there = curve.accuracy[material.reference.name], curve.accuracy[shifted[0].name]
        parts.append(
            f"{material.short(curve.adapter)} goes from {percent(here[0])} and {percent(there[0])} on "
            f"{shifted[0].name} at alpha {curve.alphas[0]:g} to {percent(here[-1])} and {percent(there[-1])} "
            f"at alpha {curve.alphas[-1]:g}."
        )
    wide, narrow = drawn(lambda width: _draw(material, width), "alphas", title, " ".join(parts))
    return Figure(
        title=title,
        caption="Each line goes from the frozen backbone with the task's base head (alpha 0) to the "
        "adapter as it was trained (alpha 1, the large mark). A ring is the alpha that the reference set "
        "alone chooses, without a shifted label. Up and right is better."
        + (" Of adapters that differ in their seed alone one is drawn." if alike else "")
        + material.unshown,
        wide=wide,
        narrow=narrow,
        data=_data(material),
    )


def published_curves() -> Figure:
    """The study's curves, in the same form."""
    title = "The study: ImageNet, 100 images a class, and the mean of four shifted sets"
    curves = interpolated()
    ends = [
        f"{one.method} ends at {percent(one.accuracy[-1])} and {percent(one.shifted[-1])}" for one in curves
    ]
    wide, narrow = drawn(
        lambda width: _draw_published(curves, width), "published-alphas", title, "; ".join(ends)
    )
    rows = [
        (one.method, alpha, here, there)
        for one in curves
        for alpha, here, there in zip(one.alphas, one.accuracy, one.shifted, strict=True)
    ]
    return Figure(
        title=title,
        caption="CLIP ViT-B/16, the epoch that was best on ImageNet's validation images; shifted: "
        "ImageNet-V2, ImageNet-R, ImageNet-Sketch, ImageNet-A. Methods without a line were measured at "
        f"alpha 1 alone. Source: {SOURCE}.",
        wide=wide,
        narrow=narrow,
        data=Data(
            name="published-alphas",
            columns=("method", "alpha", "imagenet", "mean_of_shifted"),
            rows=tuple(rows),
        ),
    )


def _shown(material: Material) -> list[Curve]:
    """Of adapters that differ in their seed alone the first one; the data has all."""
    shown: dict[str, Curve] = {}
    for curve in material.evaluation.curves:
        route = material.routes.get(curve.adapter)
        shown.setdefault(route.seeds_of if route is not None and route.seeds_of else curve.adapter, curve)
    return list(shown.values())


def _draw(material: Material, width: Width) -> Canvas:
    shifted = material.shown[1:]
    canvas, all_axes = panels(
        width,
        350 if width.narrow else 400,
        len(shifted),
        columns=1 if width.narrow else 2,
        share_y=False,
        share_x=False,
    )
    here = material.reference.name
    for axes, one in zip(all_axes, shifted, strict=True):
        for curve in _shown(material):
            if one.name in curve.accuracy:
                _line(axes, curve.method, curve.alphas, curve.accuracy[here], curve.accuracy[one.name])
                _chosen(axes, curve, here, one.name)
        axes.set_title(one.name)
        axes.set_xlabel(f"accuracy on {here}")
        axes.set_ylabel(f"on {one.name}")
        percent_axis(axes, "x")
        percent_axis(axes, "y")
        axes.margins(0.12)
    _legend(canvas, all_axes[0], [curve.method for curve in material.evaluation.curves], width)
    for axes, one in zip(all_axes, shifted, strict=True):
        ends, marks = list[Label](), list[tuple[float, float]]()
        for curve in _shown(material):
            if one.name in curve.accuracy:
                x, y = curve.accuracy[here], curve.accuracy[one.name]
                tint = family(curve.method).colour
                ends.append(Label(x=x[-1], y=y[-1], text=material.short(curve.adapter), colour=tint))
                marks += zip(x, y, strict=True)
        place(canvas, axes, ends, marks=marks)
    return canvas


def _draw_published(curves: Sequence[Interpolated], width: Width) -> Canvas:
    canvas, (axes,) = panels(width, 360 if width.narrow else 430)
    for one in curves:
        _line(axes, one.method, one.alphas, one.accuracy, one.shifted)
    axes.set_xlabel("accuracy on ImageNet")
    axes.set_ylabel("mean of shifted sets")
    percent_axis(axes, "x")
    percent_axis(axes, "y")
    axes.margins(0.12)
    _legend(canvas, axes, [one.method for one in curves], width)
    ends = [
        Label(x=one.accuracy[-1], y=one.shifted[-1], text=one.method, colour=family(one.method).colour)
        for one in curves
    ]
    place(
        canvas,
        axes,
        ends,
        marks=[mark for one in curves for mark in zip(one.accuracy, one.shifted, strict=True)],
    )
    return canvas


def _line(
    axes: Axes, method: str, alphas: Sequence[float], here: Sequence[float], there: Sequence[float]
) -> None:
    """One curve, with a mark at each alpha and a larger one where it ends."""
    kind = family(method)
    tint = colour(kind.colour)
    axes.plot(here, there, color=tint, marker=".", markersize=4, linewidth=1.4)
    axes.plot(here[-1], there[-1], kind.marker, color=tint, markersize=7)
    for alpha, x, y in zip(alphas, here, there, strict=True):
        if alpha == 0.5:
            axes.plot(x, y, "|", color=tint, markersize=9)


def _chosen(axes: Axes, curve: Curve, here: str, there: str) -> None:
    """A ring around the chosen alpha."""
    place = curve.alphas.index(curve.chosen_alpha) if curve.chosen_alpha in curve.alphas else None
    if place is not None:
        x, y = curve.accuracy[here][place], curve.accuracy[there][place]
        axes.plot(x, y, "o", color=colour("ink"), fillstyle="none", markersize=11, markeredgewidth=1.1)


def _legend(canvas: Canvas, axes: Axes, methods: Sequence[str], width: Width) -> None:
    shown = [one for one in (*FAMILIES, OTHER) if any(family(method) == one for method in methods)]
    handles = [axes.plot([], [], color=colour(one.colour), marker=one.marker)[0] for one in shown]
    tick = axes.plot([], [], "|", color=colour("ink"), linestyle="none", markersize=9)[0]
    label_below(canvas, [*handles, tick], [*(one.title for one in shown), "alpha 0.5"], width)


def _data(material: Material) -> Data:
    rows = [
        (curve.adapter, curve.method, alpha, name, accuracy, curve.chosen_alpha)
        for curve in material.evaluation.curves
        for name, along in curve.accuracy.items()
        for alpha, accuracy in zip(curve.alphas, along, strict=True)
    ]
    columns = ("adapter", "method", "alpha", "set", "accuracy", "chosen_alpha")
    return Data(name="alphas", columns=columns, rows=tuple(rows))
