"""A status as one HTML page that asks for nothing but itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from html_pages.rendering import rendered
from serving.monitor import wording
from serving.monitor.page.cards import Card, card
from serving.monitor.status import DomainStatus, RouteStatus, Status
from serving.monitor.wording import Tone

_FOLDER: Final = "serving.monitor.page"
_MAX_CARDS: Final = 100  # a page of more is slow to read, for people and browsers
_MAX_NAMES: Final = 100

_NOTES: Final = (
    "Estimated accuracy needs no labels: it is the median of several methods, and its band reaches over "
    "their intervals at 95 %. It can be wrong under a shift that no method sees. Measured accuracy is from "
    "labels, which `corolla feedback PREDICTION_ID CLASS` and the clients send.",
)


@dataclass(frozen=True, kw_only=True)
class _Route:
    """What is said of a route, and its cards.

    Attributes:
        advice, command: What to do for a reference; empty where it has one.
        quiet: Which of its domains have no images.
    """

    name: str
    key: str
    reference: str
    advice: str
    command: str
    cards: tuple[Card, ...] = ()
    quiet: str = ""


@dataclass(frozen=True, kw_only=True)
class _Empty:
    """What to do where there is nothing to show."""

    title: str
    lines: tuple[str, ...]
    commands: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Page:
    title: str
    verdict: str
    tone: Tone
    facts: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    routes: tuple[_Route, ...]
    idle: tuple[_Route, ...]
    hidden: str
    empty: _Empty | None
    notes: tuple[str, ...] = _NOTES

    @property
    def cards(self) -> list[Card]:
        return [card for route in self.routes for card in route.cards]

    @property
    def alarms(self) -> list[Card]:
        return [card for card in self.cards if card.alarms]


def html(status: Status, *, every_s: float) -> str:
    """The page; with scripts it reads itself again so often."""
    return rendered(_FOLDER, script="refresh.js", page=_page(status), every_s=f"{every_s:g}")


def _page(status: Status) -> _Page:
    busy = [route for route in status.routes if any(domain.images for domain in route.domains)]
    idle = [route for route in status.routes if not any(domain.images for domain in route.domains)]
    shown = _shown(busy)
    routes = tuple(_route(number, status, route, shown) for number, route in enumerate(busy))
    left_out = sum(bool(domain.images) for route in busy for domain in route.domains) - len(shown)
    verdict, tone = wording.verdict(status)
    raised = len(status.alarms)
    return _Page(
        title=f"{wording.count(raised, 'alarm')} · Corolla" if raised else "Status · Corolla",
        verdict=verdict,
        tone=tone,
        facts=(
            ("read from", status.source),
            ("at", wording.moment(status.at)),
            ("images of", wording.last(status.window_s)),
            ("labels of", wording.last(status.label_window_s)),
        ),
        problems=status.problems,
        routes=tuple(route for route in routes if route.cards),
        idle=tuple(_idle(route) for route in idle[:_MAX_NAMES]),
        hidden=f"{wording.count(left_out, 'domain')} more: status.json has them." if left_out else "",
        empty=None if busy else _empty(status),
    )


def _shown(routes: list[RouteStatus]) -> frozenset[tuple[str, str]]:
    """The routes with their domains that have a card: those with alarms before all others."""
    places = [(route.route, domain) for route in routes for domain in route.domains if domain.images]
    places.sort(key=lambda place: not place[1].alarms)
    return frozenset((route, domain.domain) for route, domain in places[:_MAX_CARDS])


def _route(number: int, status: Status, route: RouteStatus, shown: frozenset[tuple[str, str]]) -> _Route:
    return _Route(
        name=route.route,
        key=f"route-{number}",
        reference=_reference(route),
        advice=wording.unreferenced(route),
        command=wording.reference_command(route) or "",
        cards=tuple(
            card(status, route, domain) for domain in route.domains if (route.route, domain.domain) in shown
        ),
        quiet=_quiet([domain for domain in route.domains if not domain.images]),
    )


def _idle(route: RouteStatus) -> _Route:
    said = _reference(route) or wording.unreferenced(route)
    return _Route(
        name=route.route, key="", reference=said, advice="", command=wording.reference_command(route) or ""
    )


def _reference(route: RouteStatus) -> str:
    """What the route is compared with; empty where there is nothing."""
    reference = route.reference
    if reference is None:
        return ""
    on = f" (`{reference.data}`)" if reference.data else ""
    digest = reference.digest.rpartition(":")[2][:12]
    return (
        f"Compared with its reference `{digest}`: {wording.percent(reference.accuracy)} right "
        f"on {wording.count(reference.images, 'labelled image')}{on}."
    )


def _quiet(domains: list[DomainStatus]) -> str:
    if not domains:
        return ""
    return "No images yet in " + _listed(domain.domain for domain in domains) + "."


def _listed(names: Iterator[str]) -> str:
    every = list(names)
    more = len(every) - _MAX_NAMES
    return ", ".join(every[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _empty(status: Status) -> _Empty:
    if status.routes:
        return _Empty(
            title="No images yet",
            lines=("Numbers appear here with the first images. Send one:",),
            commands=("corolla classify photo.jpg --route NAME --task TASK",),
        )
    return _Empty(
        title="No route yet",
        lines=(
            "A route is shown here once it has a name, or once something was classified. Name one, measure "
            "what its traffic is compared with, and send images:",
        ),
        commands=(
            'corolla routes put best "lora, ssf" --task TASK',
            "corolla routes reference best --task TASK",
            "corolla classify photo.jpg --route best --task TASK",
        ),
    )
