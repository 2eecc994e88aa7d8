"""A status as a terminal shows it: a line for each route in each domain. No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from serving.monitor import wording
from serving.monitor.status import DomainStatus, RouteStatus, Status
from serving.monitor.wording import Tone

_STYLES: Final[dict[Tone, str]] = {"good": "green", "bad": "bold red", "muted": "dim"}
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_SPARK: Final = 16  # columns
_LAYOUTS: Final = ((True, True), (False, True), (False, False))
"""Whether there are sparklines and intervals, from the widest layout to the narrowest."""
_SHARES: Final = {"images": "images", "confidence": "conf.", "agreement": "agree", "estimated": "est."}
"""The numbers that have a past, with their names in a narrow terminal."""
_MAX_ADVICE: Final = 3
_UNBOUNDED: Final = 1000


@dataclass(frozen=True, kw_only=True)
class View:
    """What is shown, as wide as the terminal allows.

    Attributes:
        status: The last that could be read.
        late: Why it is not newer; empty where it is.
        most: Lines for routes at most; None shows all. Alarms come first where not all fit.
    """

    status: Status
    late: str = ""
    most: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._head()
        shown = _places(self.status)
        if self.most is not None and len(shown) > self.most:
            shown = sorted(shown, key=lambda place: not (place[1] and place[1].alarms))[: max(1, self.most)]
        if shown:
            yield Text()
            yield _fitting(shown, console, options)
        left_out = len(_places(self.status)) - len(shown)
        if left_out:
            yield _plain(f"and {left_out} more; --route chooses, --once shows all", "dim")
        yield from self._advice()

    def _head(self) -> Iterator[Text]:
        status = self.status
        windows = (
            f"images of {wording.last(status.window_s)}, labels of {wording.last(status.label_window_s)}"
        )
        yield _plain(f"{status.source}, {wording.moment(status.at)}: {windows}", "dim")
        if self.late:
            yield _plain(f"these numbers are old: {self.late}", "bold red")
        text, tone = wording.verdict(status)
        yield _plain(text, _STYLES[tone])
        for raised in status.alarms:
            yield _plain(f"! {raised.route} in {raised.domain}: {wording.alarm(raised, status.at)}", "red")
        for problem in status.problems:
            yield _plain(f"problem: {problem}", "yellow")

    def _advice(self) -> Iterator[Text]:
        commands = [
            command
            for route in self.status.routes
            if (command := wording.reference_command(route)) is not None
        ]
        if not self.status.routes:
            yield _plain('Name a route: corolla routes put best "lora, ssf" --task TASK', "dim")
        if commands:
            yield Text()
            yield _plain("Nothing is estimated and nothing raises an alarm without a reference:", "dim")
        for command in commands[:_MAX_ADVICE]:
            yield _plain(f"  {command}", "dim")
        if len(commands) > _MAX_ADVICE:
            yield _plain(f"  and for {len(commands) - _MAX_ADVICE} more", "dim")


def sparkline(values: Sequence[float | None], low: float, high: float, columns: int = _SPARK) -> str:
    """Values as blocks between two bounds, several in a column by their mean; a gap is a space."""
    if not values:
        return ""
    width = min(columns, len(values))
    text = ""
    for column in range(width):
        part = values[column * len(values) // width : (column + 1) * len(values) // width]
        known = [value for value in part if value is not None]
        if not known:
            text += " "
            continue
        share = (sum(known) / len(known) - low) / (high - low) if high > low else 1.0
        text += _BLOCKS[min(max(int(share * len(_BLOCKS)), 0), len(_BLOCKS) - 1)]
    return text


_Place = tuple[RouteStatus, DomainStatus | None]


def _places(status: Status) -> list[_Place]:
    """The routes with their domains that have images; a route that has none is there once."""
    places: list[_Place] = []
    for route in status.routes:
        busy = [domain for domain in route.domains if domain.images]
        places += [(route, domain) for domain in busy] or [(route, None)]
    return places


def _fitting(places: Sequence[_Place], console: Console, options: ConsoleOptions) -> Table:
    """The widest layout that fits."""
    drawable = console.encoding.lower().startswith("utf")
    for sparks, spans in _LAYOUTS:
        table = _table(places, sparks=sparks and drawable, spans=spans)
        if console.measure(table, options=options.update(width=_UNBOUNDED)).maximum <= options.max_width:
            break
    return table


def _table(places: Sequence[_Place], *, sparks: bool, spans: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("route", "domain"):
        table.add_column(name, overflow="fold")
    for name, short in _SHARES.items():
        table.add_column(name if spans else short, justify="right", no_wrap=True)
        if sparks:
            table.add_column("", no_wrap=True)
    table.add_column("measured" if spans else "meas.", justify="left" if spans else "right", no_wrap=True)
    table.add_column("alarm", overflow="fold")
    for route, domain in places:
        table.add_row(*_cells(route, domain, sparks=sparks, spans=spans))
    return table


def _cells(route: RouteStatus, domain: DomainStatus | None, *, sparks: bool, spans: bool) -> list[Text]:
    """A line."""
    if domain is None:
        numbers = [_plain("")] * (len(_SHARES) * (1 + sparks) + 1)
        return [_plain(route.route), _plain(""), *numbers, _plain("no images yet", _STYLES["muted"])]
    state, tone = wording.state(route, domain)
    numbers = _numbers(domain, sparks=sparks, spans=spans)
    return [_plain(route.route), _plain(domain.domain), *numbers, _plain(state, _STYLES[tone])]


def _numbers(domain: DomainStatus, *, sparks: bool, spans: bool) -> list[Text]:
    """Those of a line, each but the last with its past."""
    past = domain.history
    numbers = (
        (_plain(wording.count(domain.images_in_window)), _amounts([point.images for point in past])),
        (_plain(wording.percent(domain.confidence)), _shares([point.confidence for point in past])),
        (_plain(wording.percent(domain.agreement)), _shares([point.agreement for point in past])),
        (_estimated(domain, spans=spans), _shares([point.estimate for point in past])),
    )
    cells = [cell for number in numbers for cell in (number if sparks else number[:1])]
    return [*cells, _measured(domain, spans=spans)]


def _estimated(domain: DomainStatus, *, spans: bool) -> Text:
    headline = domain.headline
    if headline is None:
        return _plain(wording.UNKNOWN, "dim")
    doubted = bool(wording.doubt(domain))
    text = wording.percent(headline.value) + "?" * doubted
    if spans:
        text += f" ({wording.span(headline.low, headline.high)})"
    return _plain(text, "dim" if doubted else "")


def _measured(domain: DomainStatus, *, spans: bool) -> Text:
    measured = domain.measured
    if measured is None or not measured.labels:
        return _plain("no labels" if spans else wording.UNKNOWN, "dim")
    best = measured.best
    text = wording.percent(best.value)
    if spans:
        text += f" ({wording.span(best.low, best.high)}) of {wording.count(measured.labels)}"
    return _plain(text)


def _amounts(past: Sequence[int]) -> Text:
    """Amounts over time, from zero."""
    return Text(sparkline(past, 0.0, max(past, default=0)) if len(past) > 1 else "", style="cyan")


def _shares(past: Sequence[float | None]) -> Text:
    """Shares over time, from the tenth below their lowest to 1."""
    known = [value for value in past if value is not None]
    return Text(sparkline(past, int(min(known) * 10) / 10, 1.0) if len(known) > 1 else "", style="cyan")


def _plain(text: str, style: str = "") -> Text:
    """Text in which nothing is markup, and no character steers the terminal."""
    shown = "".join(
        one if one.isprintable() or one == "\u00a0" else one.encode("unicode_escape").decode() for one in text
    )
    return Text(shown, style=style)
