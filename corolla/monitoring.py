"""What `corolla monitor` says in a terminal about a status."""

from collections.abc import Iterator

from rich.table import Table

from corolla import tables
from serving.monitor.status import Alarm, DomainStatus, Measured, RouteStatus, Status

_COLUMNS = (
    *("route", "domain", "images", "confidence", "agreement"),
    *("estimate", "band", "spread", "measured", "labels", "alarms"),
)


def table_of(status: Status) -> Table:
    """A row for every route in every domain with traffic."""
    table = tables.table_of(*_COLUMNS)
    for route in status.routes:
        for domain in route.domains:
            table.add_row(*_row(route, domain))
    return table


def remarks(status: Status) -> Iterator[str]:
    """What a reader of the table has to know: what is missing, and which numbers not to believe."""
    yield from status.problems
    for route in status.routes:
        if route.problem:
            yield f"{route.route}: {route.problem}"
        for domain in route.domains:
            place = f"{route.route}, {domain.domain}"
            if domain.headline is not None and not domain.headline.trusted:
                yield f"{place}: do not trust the estimate: {domain.headline.why}"
            for why, methods in _left_out(domain).items():
                yield f"{place}: left out of the estimate: {', '.join(methods)}: {why}"


def alarm_line(alarm: Alarm) -> str:
    """One alarm as a sentence."""
    counted = "labels" if alarm.kind == "accuracy" else "images"
    return (
        f"{alarm.route}, {alarm.domain}: {alarm.kind} ({alarm.indicator}) after {alarm.images:,} {counted}; "
        f"evidence 10^{alarm.e_value:.1f}, 10^{alarm.threshold:.1f} was needed"
    )


def changes(before: Status, now: Status) -> Iterator[str]:
    """What is new since another status: alarms and problems that came or went."""
    raised, was_raised = _alarms(now), _alarms(before)
    for key in raised.keys() - was_raised.keys():
        yield f"ALARM {alarm_line(raised[key])}"
    for key in was_raised.keys() - raised.keys():
        yield f"no longer: alarm of {', '.join(key)}"
    said, was_said = _problems(now), _problems(before)
    yield from (f"problem: {problem}" for problem in said if problem not in was_said)
    yield from (f"no longer: {problem}" for problem in was_said if problem not in said)


def _alarms(status: Status) -> dict[tuple[str, str, str], Alarm]:
    return {(alarm.route, alarm.domain, alarm.kind): alarm for alarm in status.alarms}


def _problems(status: Status) -> list[str]:
    return [
        *status.problems,
        *(f"{route.route}: {route.problem}" for route in status.routes if route.problem),
    ]


def _left_out(domain: DomainStatus) -> dict[str, list[str]]:
    """The methods that are not trusted, by the reason."""
    reasons: dict[str, list[str]] = {}
    for estimate in domain.estimates:
        if not estimate.trusted:
            reasons.setdefault(estimate.why, []).append(estimate.method)
    return reasons


def _row(route: RouteStatus, domain: DomainStatus) -> tuple[str, ...]:
    head, best = domain.headline, _best(domain.measured)
    return (
        route.route,
        domain.domain,
        f"{domain.images_in_window:,}",
        _percent(domain.confidence),
        _percent(domain.agreement),
        f"{_percent(head.value)}{'' if head.trusted else ' ?'}" if head else "-",
        f"{_percent(head.low)} to {_percent(head.high)}" if head else "-",
        f"{100 * head.spread:.1f}" if head else "-",
        best,
        f"{domain.measured.labels:,}" if domain.measured else "-",
        ", ".join(alarm.kind for alarm in domain.alarms) or "-",
    )


def _best(measured: Measured | None) -> str:
    """The measured accuracy that is least bent by the choice of images."""
    if measured is None:
        return "-"
    powered = measured.prediction_powered
    value, low, high = (
        (measured.accuracy, measured.low, measured.high)
        if powered is None
        else (powered.value, powered.low, powered.high)
    )
    return f"{_percent(value)} ({_percent(low)} to {_percent(high)})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
