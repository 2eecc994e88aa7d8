"""Reliability diagrams before and after a temperature, and how sure answers are on each domain."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from training.measure.figures import Bin, Result, Scores
from training.study.report.contents import Data, Figure
from training.study.report.drawing import Width, drawn, label_below, panels, percent_axis
from training.study.report.material import Material
from training.study.report.theme import SETS, colour
from training.study.report.words import percent

MOST = 8
"""Diagrams at most; the data beside the figure has all routes."""
FEWEST = 5
"""Images that a point stands for at least: of fewer, the share that is right says nothing."""


def reliability(material: Material) -> Figure:
    """Accuracy by confidence on the reference set, of the most accurate routes."""
    results = material.measured(material.routes.values())[:MOST]
    title = f"Reliability on {material.reference.name}, before and after a temperature"
    alt = " ".join(_in_words(material, one) for one in results)
    wide, narrow = drawn(lambda width: _diagrams(material, results, width), "reliability", title, alt)
    left_out = len(material.routes) - len(results)
    return Figure(
        title=title,
        caption="Accuracy of the answers of about one confidence; on the diagonal, a confidence of 80 % is "
        "right in 80 % of the cases, below it the answers are too sure. Larger marks stand for more images; "
        f"points of fewer than {FEWEST} are not drawn. Each title has the expected calibration error (ECE) "
        "before and after; the temperature is fitted on one half of the images and scored on the other."
        + (f" The data has {left_out} more routes." if left_out else ""),
        wide=wide,
        narrow=narrow,
        data=_bins_data(material),
    )


def _in_words(material: Material, result: Result) -> str:
    after = f", {percent(result.calibrated.ece)} after" if result.calibrated else ""
    name = material.short(result.route)
    return f"{name}: expected calibration error {percent(result.raw.ece)} before{after}."


def _diagrams(material: Material, results: Sequence[Result], width: Width) -> Canvas:
    columns = 2 if width.narrow else 4
    side = width.pixels / columns
    canvas, all_axes = panels(width, side * (1.16 if width.narrow else 1.08), len(results), columns=columns)
    handles = []
    for axes, result in zip(all_axes, results, strict=True):
        axes.plot([0, 1], [0, 1], color=colour("muted"), linewidth=0.8, linestyle=(0, (4, 4)))
        handles = [_bins(axes, result.raw.bins, "orange", "--")]
        if result.calibrated is not None:
            handles.append(_bins(axes, result.calibrated.bins, "blue", "-"))
        axes.set_title(_title(material, result, width), fontsize=width.text - 1)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.04)
        axes.set_xticks([0, 0.5, 1], ["0", "50", "100"])
        axes.set_yticks([0, 0.5, 1], ["0", "50", "100"])
        axes.tick_params(labelbottom=True)
    for axes in all_axes[-columns:]:
        axes.set_xlabel("confidence, %")
    canvas.supylabel("accuracy, %", fontsize=width.text)
    label_below(canvas, handles, ["temperature 1", "fitted temperature"][: len(handles)], width)
    return canvas


def _title(material: Material, result: Result, width: Width) -> str:
    after = "" if result.calibrated is None else f" → {100 * result.calibrated.ece:.1f}"
    name = material.short(result.route)
    room = 20 if width.narrow else 26
    name = name if len(name) <= room else f"{name[: room - 1]}…"
    return f"{name}\nECE {100 * result.raw.ece:.1f}{after} %"


def _bins(axes: Axes, bins: Sequence[Bin], tint: str, style: str) -> object:
    filled = [one for one in bins if one.count >= FEWEST and one.confidence is not None]
    x = [one.confidence or 0.0 for one in filled]
    y = [one.correct / one.count for one in filled]
    total = sum(one.count for one in filled)
    area = [8 + 90 * one.count / max(total, 1) for one in filled]
    axes.scatter(x, y, s=area, color=colour(tint), alpha=0.8, linewidths=0)
    return axes.plot(x, y, color=colour(tint), linestyle=style, linewidth=1.2)[0]


def _bins_data(material: Material) -> Data:
    rows = []
    shown = {one.name for one in material.shown}
    for result in (one for one in material.evaluation.results if one.set in shown):
        scores: list[tuple[str, Scores | None]] = [("before", result.raw), ("after", result.calibrated)]
        for when, one in scores:
            for number, bin in enumerate(one.bins if one else ()):
                edge = number / len(one.bins) if one else 0.0
                place = (result.set, result.route, when, one.temperature if one else None, edge)
                rows.append((*place, bin.count, bin.correct, bin.confidence))
    columns = (
        "set",
        "route",
        "temperature_is",
        "temperature",
        "bin_from",
        "images",
        "correct",
        "mean_confidence",
    )
    return Data(name="reliability", columns=columns, rows=tuple(rows))


def confidence_against_accuracy(material: Material) -> Figure:
    """Mean confidence of every model on every set, against its accuracy there."""
    title = "Confidence against accuracy, by domain"
    parts = []
    for one in material.shown:
        results = material.measured(material.models, one.name)
        if results:
            sure, right = _mean([r.confidence for r in results]), _mean([r.accuracy for r in results])
            parts.append(
                f"On {one.name} the models are {percent(right)} right and {percent(sure)} sure in the mean."
            )
    wide, narrow = drawn(lambda width: _scatter(material, width), "confidence", title, " ".join(parts))
    rows = [(r.set, r.route, r.accuracy, r.confidence, r.agreement) for r in material.evaluation.results]
    columns = ("set", "route", "accuracy", "mean_confidence", "member_agreement")
    return Figure(
        title=title,
        caption="Each mark is one model on one set, a star an ensemble, with the probabilities as they are "
        "served. Above the diagonal the answers are surer than they are right: a confidence threshold that "
        f"was set on {material.reference.name} then lets too many wrong answers pass.",
        wide=wide,
        narrow=narrow,
        data=Data(name="confidence", columns=columns, rows=tuple(rows)),
    )


def _scatter(material: Material, width: Width) -> Canvas:
    canvas, (axes,) = panels(width, 350 if width.narrow else 430)
    axes.axline((0.5, 0.5), slope=1, color=colour("muted"), linewidth=0.8, linestyle=(0, (4, 4)))
    handles = []
    for number, one in enumerate(material.shown):
        tint = colour(SETS[number % len(SETS)])
        for routes, marker, size in ((material.models, "o", 6), (material.joint, "*", 10)):
            results = material.measured(routes, one.name)
            x, y = [r.accuracy for r in results], [r.confidence for r in results]
            line = axes.plot(x, y, marker, color=tint, markersize=size, alpha=0.8, linestyle="none")[0]
            if marker == "o":
                handles.append(line)
    axes.set_xlabel("accuracy")
    axes.set_ylabel("mean confidence")
    percent_axis(axes, "x")
    percent_axis(axes, "y")
    axes.margins(0.06)
    label_below(canvas, handles, [one.name for one in material.shown], width)
    return canvas


def confidence_by_domain(material: Material, label: str) -> Figure:
    """How the confidence of one route is distributed on each set, right and wrong answers apart."""
    results = [r for one in material.shown if (r := material.result(label, one.name)) is not None]
    name = material.short(label)
    title = f"How sure {name} is, by domain"
    parts = [
        f"On {r.set}: mean confidence {percent(r.confidence)}, accuracy {percent(r.accuracy)}."
        for r in results
    ]
    wide, narrow = drawn(lambda width: _histograms(results, width), "confidence-bars", title, " ".join(parts))
    rows = []
    for r in results:
        for number, bin in enumerate(r.confidence_histogram):
            rows.append(
                (r.set, number / len(r.confidence_histogram), bin.count, bin.correct, bin.count - bin.correct)
            )
    columns = ("set", "confidence_from", "images", "right", "wrong")
    return Figure(
        title=title,
        caption=f"Share of the images by the confidence of {name}, as it is served. Wrong answers at the "
        "right end are those that no threshold catches.",
        wide=wide,
        narrow=narrow,
        data=Data(name="confidence-by-domain", columns=columns, rows=tuple(rows)),
    )


def _histograms(results: Sequence[Result], width: Width) -> Canvas:
    columns = 1 if width.narrow else 2
    canvas, all_axes = panels(width, 200, len(results), columns=columns)
    handles: list[object] = []
    for axes, result in zip(all_axes, results, strict=True):
        bins = result.confidence_histogram
        total = sum(one.count for one in bins)
        edges = np.arange(len(bins)) / len(bins)
        right = np.array([one.correct for one in bins]) / total
        wrong = np.array([one.count - one.correct for one in bins]) / total
        bar = 0.9 / len(bins)
        low = axes.bar(edges, right, bar, align="edge", color=colour("blue"), alpha=0.85)
        style: dict[str, Any] = {
            "color": colour("red"),
            "hatch": "////",
            "edgecolor": colour("paper"),
            "linewidth": 0,
        }
        high = axes.bar(edges, wrong, bar, bottom=right, align="edge", **style)
        handles = [low, high]
        axes.set_title(
            f"{result.set}: {percent(result.confidence)} sure, {percent(result.accuracy)} right",
            fontsize=width.text - 1,
        )
        axes.set_xlim(0, 1.01)
        percent_axis(axes, "x")
        percent_axis(axes, "y")
        axes.tick_params(labelbottom=True)
    for axes in all_axes[-columns:]:
        axes.set_xlabel("confidence")
    canvas.supylabel("share of the images", fontsize=width.text)
    label_below(canvas, handles, ["right answers", "wrong answers"], width)
    return canvas


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
