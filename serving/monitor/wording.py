"""The evaluator's numbers and states in words, as the status page and `corolla watch` say them."""

import shlex
from datetime import UTC, datetime
from typing import Final, Literal

from serving.monitor.status import Alarm, DomainStatus, RouteStatus, Status

Tone = Literal["good", "bad", "muted"]

UNKNOWN: Final = "–"
"""In place of a number that is not known."""

METHODS: Final = {
    "atc_mc": "ATC on confidence",
    "atc_ne": "ATC on entropy",
    "confidence": "calibrated confidence",
    "doc": "difference of confidences",
    "vote": "share of votes",
    "aline_s": "agreement line (ALine-S)",
    "aline_d": "agreement line (ALine-D)",
    "slope1": "agreement line of slope 1",
    "bbse": "class counts (BBSE)",
}
INDICATORS: Final = {
    "disagreement": "members disagree",
    "low_score": "low scores",
    "unsure": "low confidence",
    "foreign": "images unlike the reference",
    "override": "the base head is overruled",
    "error": "wrong answers",
}
_KINDS: Final = {"shift": "shift", "accuracy": "accuracy"}
_UNITS: Final = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


def whole_percent(share: float) -> str:
    """0.8 is 80 %."""
    return f"{100 * share:.0f}\u00a0%"


def percent(share: float | None) -> str:
    """0.9337 is 93.4 %."""
    return UNKNOWN if share is None else f"{100 * share:.1f}\u00a0%"


def span(low: float, high: float) -> str:
    """An interval of shares, as it stands behind its `percent`."""
    return f"{100 * low:.1f} to {100 * high:.1f}"


def count(number: float, noun: str = "") -> str:
    """1234 is 1,234; with a noun, in its singular or its plural."""
    text = f"{number:,.0f}"
    return f"{text} {noun}{'s' * (text != '1')}" if noun else text


def last(seconds: float) -> str:
    """A window, in the largest unit that makes it whole: "the last hour", "the last 90 minutes"."""
    for unit, length in _UNITS:
        if seconds >= length and seconds % length == 0:
            return f"the last {unit if seconds == length else count(seconds / length, unit)}"
    return f"the last {seconds:g} seconds"


def moment(at: float) -> str:
    """A time with its date."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock(at: float, now: float) -> str:
    """A time of day, with the date where that is another than now's."""
    then, today = datetime.fromtimestamp(at, UTC), datetime.fromtimestamp(now, UTC)
    return then.strftime("%H:%M UTC" if then.date() == today.date() else "%Y-%m-%d %H:%M UTC")


def method(name: str) -> str:
    """What people call a method."""
    return METHODS.get(name, name)


def indicator(name: str) -> str:
    """What an indicator sees."""
    return INDICATORS.get(name, name.replace("_", " "))


def power(log10: float) -> str:
    """Evidence as people read it: 0.3 is 2, 4.3 is 10^4.3."""
    return f"{10**log10:.2g}" if log10 < 2 else f"10^{log10:.1f}"


def alarm(raised: Alarm, now: float) -> str:
    """What an alarm says, without its place."""
    images = count(raised.images, "label" if raised.kind == "accuracy" else "image")
    return (
        f"{_KINDS[raised.kind]}: {indicator(raised.indicator)}; evidence {power(raised.e_value)}, threshold "
        f"{power(raised.threshold)}; raised {clock(raised.first_seen, now)} after {images}"
    )


def state(route: RouteStatus, domain: DomainStatus) -> tuple[str, Tone]:
    """Where one route in one domain stands, in a word or three."""
    if domain.alarms:
        kinds = sorted({raised.kind for raised in domain.alarms}, reverse=True)
        return f"alarm: {' and '.join(kinds)}", "bad"
    if not domain.images:
        return "no images yet", "muted"
    if route.unusable or (route.reference is not None and route.reference.stale):
        return "reference not usable", "muted"
    if route.reference is None:
        return "no reference", "muted"
    if not domain.images_in_window:
        return "no images now", "muted"
    return "no alarm", "good"


def verdict(status: Status) -> tuple[str, Tone]:
    """Everything in one sentence."""
    alarms, watched = len(status.alarms), len(_watched(status))
    if alarms:
        return f"{count(alarms, 'alarm')} on {count(watched, 'route')} with a reference.", "bad"
    if watched:
        return f"No alarm on {count(watched, 'route')} with a reference.", "good"
    if any(domain.images for route in status.routes for domain in route.domains):
        return "No route has a reference, so nothing can raise an alarm.", "muted"
    return "No images yet.", "muted"


def doubt(domain: DomainStatus) -> str:
    """Why not to believe the headline; empty where it is to be believed, or there is none."""
    headline = domain.headline
    if headline is None or headline.trusted:
        return ""
    return headline.why or f"the methods differ by {100 * headline.spread:.0f} points"


def unestimated(route: RouteStatus, domain: DomainStatus) -> str:
    """Why there is no headline."""
    if not domain.images_in_window:
        return "no images in the window"
    if route.unusable or (route.reference is not None and route.reference.stale):
        return "its reference cannot be used"
    if route.reference is None:
        return "no reference"
    return route.problem or "too few images"


def reference_command(route: RouteStatus) -> str | None:
    """What to type for a route that has no reference; None where it has one, or cannot have any."""
    task, slash, name = route.route.partition("/")
    if not slash or route.reference is not None or route.unusable:
        return None
    return f"corolla routes reference {shlex.quote(name)} --task {shlex.quote(task)}"


def unreferenced(route: RouteStatus) -> str:
    """Why a route is not watched; empty where it is."""
    if route.reference is not None or route.unusable:
        return route.problem
    if reference_command(route) is None:
        return "Only a named route can have a reference: `corolla routes put` names one."
    return "It has no reference, so nothing is estimated and nothing raises an alarm. Measure one:"


def _watched(status: Status) -> list[RouteStatus]:
    return [route for route in status.routes if route.reference is not None and not route.reference.stale]
