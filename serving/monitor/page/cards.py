"""What the page shows of one route in one domain: numbers as text, and their plots."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from serving.monitor import wording
from serving.monitor.page.plots import Plot, Scale, bars, line, scale_of
from serving.monitor.status import DomainStatus, Point, RouteStatus, Status
from serving.monitor.wording import Tone


@dataclass(frozen=True, kw_only=True)
class Range:
    """An accuracy on a scale: a stroke from `low` to `high`, a mark at `value`, in per cent of the width."""

    name: str
    kind: str
    text: str
    detail: str
    note: str = ""
    value: float | None = None
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number with its past."""

    name: str
    text: str
    note: str
    plot: Plot | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text in columns; the first names the row."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Card:
    """One route in one domain.

    Attributes:
        key: The same at every look, for links and for details that stay open.
        ranges: Estimated and measured accuracy; `reference` is where that of the reference lies, in per cent.
        glance: What the row of all at a glance says, by the name of its column.
        past: Both over time; None where there is no past yet.
        details: What is folded away.
    """

    key: str
    route: str
    domain: str
    state: str
    tone: Tone
    alarms: tuple[str, ...]
    ranges: tuple[Range, ...]
    scale: Scale
    reference: float | None
    glance: tuple[tuple[str, str], ...]
    past: Plot | None
    metrics: tuple[Metric, ...]
    details: tuple[Table, ...]


def card(status: Status, route: RouteStatus, domain: DomainStatus) -> Card:
    """What is shown of a domain that has images."""
    scale = _scale(route, domain)
    state, tone = wording.state(route, domain)
    accuracy = None if route.reference is None else route.reference.accuracy
    return Card(
        key="p" + hashlib.blake2s(f"{route.route}\0{domain.domain}".encode(), digest_size=4).hexdigest(),
        route=route.route,
        domain=domain.domain,
        state=state,
        tone=tone,
        alarms=tuple(wording.alarm(raised, status.at) for raised in domain.alarms),
        ranges=(_estimated(route, domain, scale), _measured(status, domain, scale)),
        scale=scale,
        reference=None if accuracy is None else scale.x(accuracy),
        glance=_glance(domain),
        past=_past(status, domain, scale, accuracy),
        metrics=tuple(_metrics(status, route, domain)),
        details=tuple(
            table for table in (_methods(domain), _members(domain), _evidence(domain)) if table.rows
        ),
    )


def _glance(domain: DomainStatus) -> tuple[tuple[str, str], ...]:
    headline, measured = domain.headline, domain.measured
    doubted = "?" if wording.doubt(domain) else ""
    return (
        ("domain", domain.domain),
        ("images", wording.count(domain.images_in_window)),
        ("confidence", wording.percent(domain.confidence)),
        ("agreement", wording.percent(domain.agreement)),
        ("estimated", wording.percent(None if headline is None else headline.value) + doubted),
        ("measured", wording.percent(measured.best.value if measured and measured.labels else None)),
    )


def _scale(route: RouteStatus, domain: DomainStatus) -> Scale:
    """One scale for all accuracies of a card."""
    past = [value for point in domain.history for value in (point.estimate, point.measured)]
    low = [] if domain.headline is None else [domain.headline.low]
    if domain.measured is not None:
        low.append(domain.measured.best.low)
    return scale_of(*past, *low, *([route.reference.accuracy] if route.reference is not None else []))


def _estimated(route: RouteStatus, domain: DomainStatus, scale: Scale) -> Range:
    headline = domain.headline
    name, kind = "Estimated accuracy", "estimate"
    if headline is None:
        return Range(name=name, kind=kind, text="none", detail=wording.unestimated(route, domain))
    return Range(
        name=name,
        kind=kind,
        text=wording.percent(headline.value),
        detail=wording.span(headline.low, headline.high),
        note=f"Do not rely on it: {why}." if (why := wording.doubt(domain).rstrip(".")) else "",
        value=scale.x(headline.value),
        low=scale.x(headline.low),
        high=scale.x(headline.high),
    )


def _measured(status: Status, domain: DomainStatus, scale: Scale) -> Range:
    measured = domain.measured
    name, kind = "Measured accuracy", "measured"
    if measured is None or not measured.labels:
        past = f"no labels in {wording.last(status.label_window_s)}"
        return Range(name=name, kind=kind, text="none", detail=past)
    best, plain = measured.best, wording.percent(measured.accuracy)
    chance = f"From labels chosen by chance, with the predictions; as they are, the labels say {plain}."
    return Range(
        name=name,
        kind=kind,
        text=wording.percent(best.value),
        detail=f"{wording.span(best.low, best.high)}, {wording.count(measured.labels, 'label')}",
        note="" if measured.prediction_powered is None else chance,
        value=scale.x(best.value),
        low=scale.x(best.low),
        high=scale.x(best.high),
    )


def _past(status: Status, domain: DomainStatus, scale: Scale, reference: float | None) -> Plot | None:
    points = domain.history
    if len(points) < 2:
        return None
    times = [point.at for point in points]
    lines = {
        "estimate": line(times, [point.estimate for point in points], scale),
        "measured": line(times, [point.measured for point in points], scale),
    }
    if not any(lines.values()):
        return None
    estimated, measured = _trend(points, lambda p: p.estimate), _trend(points, lambda p: p.measured)
    return Plot(
        words=f"Accuracy over time. Estimated: {estimated}. Measured: {measured}.",
        lines=tuple(lines.items()),
        level=None if reference is None else scale.y(reference),
        low=wording.whole_percent(scale.low),
        high=wording.whole_percent(scale.high),
        start=wording.clock(times[0], status.at),
        end=wording.clock(times[-1], status.at),
    )


def _metrics(status: Status, route: RouteStatus, domain: DomainStatus) -> list[Metric]:
    reference, points = route.reference, domain.history
    times = [point.at for point in points]
    metrics = [
        Metric(
            name="Images",
            text=wording.count(domain.images_in_window),
            note=f"in {wording.last(status.window_s)}, of {wording.count(domain.images)}",
            plot=_plot(
                "Images at each look.", "traffic", bars(times, [point.images for point in points]), points
            ),
        ),
        _share(
            "Confidence",
            domain.confidence,
            None if reference is None else reference.confidence,
            [point.confidence for point in points],
            points,
        ),
    ]
    agreement = [point.agreement for point in points]
    if domain.agreement is not None or any(value is not None for value in agreement):
        expected = None if reference is None else reference.agreement
        metrics.append(_share("Agreement", domain.agreement, expected, agreement, points))
    if domain.foreign is not None and reference is not None:
        metrics.append(
            Metric(
                name="Foreign images",
                text=wording.percent(domain.foreign),
                note="unlike those of the reference; 5\u00a0% is normal",
                plot=None,
            )
        )
    return metrics


def _share(
    name: str,
    value: float | None,
    expected: float | None,
    past: list[float | None],
    points: tuple[Point, ...],
) -> Metric:
    scale = scale_of(*past, expected)
    words = f"{name} over time: {_said(past)}."
    path = line([point.at for point in points], past, scale)
    level = None if expected is None else scale.y(expected)
    note = "" if expected is None else f"{wording.percent(expected)} on the reference"
    return Metric(
        name=name, text=wording.percent(value), note=note, plot=_plot(words, "signal", path, points, level)
    )


def _plot(
    words: str, kind: str, path: str, points: tuple[Point, ...], level: float | None = None
) -> Plot | None:
    if len(points) < 2 or not path:
        return None
    return Plot(words=words, lines=((kind, path),), level=level)


def _trend(points: tuple[Point, ...], of: Callable[[Point], float | None]) -> str:
    return _said([of(point) for point in points])


def _said(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "nothing known"
    return f"from {wording.percent(known[0])} to {wording.percent(known[-1])}"


def _methods(domain: DomainStatus) -> Table:
    rows = [
        (
            wording.method(one.method),
            f"{wording.percent(one.value)} ({wording.span(one.low, one.high)})",
            "used" if one.trusted else f"not used: {one.why}",
        )
        for one in domain.estimates
    ]
    if domain.line is not None:
        line = domain.line
        fit = f"R² {line.r2:.2f}, slope {line.slope:.2f}, {wording.count(line.pairs, 'pair')}"
        rows.append(("fit of the agreement line", fit, "used" if line.used else f"not used: {line.why}"))
    return Table(name="Estimates", columns=("method", "accuracy", ""), rows=tuple(rows))


def _members(domain: DomainStatus) -> Table:
    rows = [
        (
            one.member,
            wording.percent(one.agreement),
            wording.percent(one.reference),
            wording.percent(one.estimate),
            f"{wording.percent(one.measured)} of {wording.count(one.labels, 'label')}"
            if one.labels
            else wording.UNKNOWN,
        )
        for one in domain.members
    ]
    columns = ("member", "gives the answer", "on the reference", "estimated", "measured")
    return Table(name="Members", columns=columns, rows=tuple(rows))


def _evidence(domain: DomainStatus) -> Table:
    rows = [
        (wording.indicator(name), wording.power(value))
        for name, value in sorted(domain.evidence.items(), key=lambda item: -item[1])
    ]
    if rows and domain.threshold is not None:
        rows.append(("an alarm, where the mean of those of its kind is", wording.power(domain.threshold)))
    return Table(name="Evidence", columns=("indicator", "evidence"), rows=tuple(rows))
