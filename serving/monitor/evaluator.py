"""From readings to a status: the loop of monitoring.

    reading -> increases -> windows -> estimates, measurements, alarms -> status

A reading that fails changes nothing but the problems: counters only rise, so that the next one has all that
was missed. Knows nothing of where readings come from, nor of who looks at the status.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue

from petl_vit.errors import Corrupt, InvalidInput, Unreachable
from serving.monitor.confusion import Confusions
from serving.monitor.domain_status import Windows, domain_status
from serving.monitor.estimates import doubted
from serving.monitor.look import Alarms, Judgement, Look, ReferenceValues
from serving.monitor.points import Points
from serving.monitor.references import References, command, references
from serving.monitor.samples import Counts, Place, Reading, SeriesNames, Source
from serving.monitor.status import DomainStatus, RouteStatus, Status
from serving.monitor.totals import Totals
from serving.monitor.window import Window

FORMAT: Final = 1
"""Of the state."""
_LATE = 5  # a reading that is so many steps late leaves a gap
_LEAST_GAP_S = 120.0


@dataclass(frozen=True, kw_only=True)
class EvaluatorSettings:
    """How it looks.

    Attributes:
        window_s: Of images.
        label_window_s: Of labels, which are few.
        every_s: Between two readings.
    """

    window_s: float = 3600.0
    label_window_s: float = 86400.0
    every_s: float = 30.0


class Evaluator:
    """Reads a source again and again; see the module.

    One thread calls `step`; `status` may be read from any.

    Args:
        alarms: None raises none.
        confusions: None leaves out what needs them.
    """

    def __init__(
        self,
        source: Source,
        settings: EvaluatorSettings | None = None,
        *,
        alarms: Alarms | None = None,
        confusions: Confusions | None = None,
    ) -> None:
        self.settings = settings or EvaluatorSettings()
        self._source, self._alarms, self._confusions = source, alarms, confusions
        self._totals = Totals(source.origin)
        self._all = Counts()
        self._window = Window(self.settings.window_s)
        self._labels = Window(self.settings.label_window_s)
        self._points = Points(max(self.settings.window_s / 20, self.settings.every_s))
        self._digests: dict[str, str] = {}
        self._judged: Mapping[Place, Judgement] = {}
        self._gaps: list[tuple[float, float]] = []
        self._named: frozenset[str] = frozenset()
        self._at = 0.0
        self._counted_at = 0.0
        self._replayed = False
        self.status = Status(
            at=0.0,
            source=source.name,
            window_s=self.settings.window_s,
            label_window_s=self.settings.label_window_s,
        )

    def step(self) -> Status:
        """Reads the source once; where it does not answer, the status stays and says so."""
        try:
            return self.look()
        except Unreachable as error:
            return self.trouble(str(error), instead=True)

    def look(self) -> Status:
        """Reads the source once; the first time also its past, since the last reading or its origin.

        Raises:
            Unreachable: It does not answer.
        """
        if not self._replayed:
            self.replay()
        return self.take(self._source.read())

    def replay(self) -> None:
        """Takes what the source knows of the time since the last reading, or since its origin.

        Raises:
            Unreachable: It does not answer.
        """
        for reading in self._source.history(max(self._at, self._source.origin)):
            self.take(reading)
        self._replayed = True

    def trouble(self, problem: str, *, instead: bool = False) -> Status:
        """Adds a problem to the status until the next step, or puts it in the place of all others."""
        others = () if instead else self.status.problems
        self.status = self.status.model_copy(update={"problems": (*others, problem)})
        return self.status

    def take(self, reading: Reading) -> Status:
        """Takes one reading, and says what is true after it."""
        problems = list(reading.problems)
        at = self._now(reading.at, problems)
        if not reading.samples and not self._counted_at:
            return self._say(at, problems, References())
        self._named = _named_routes(reading) or self._named
        increase, strange = self._totals.step(reading)
        problems += strange
        found = references(reading)
        self._forget_changed(found.usable, increase)
        for window in (self._window, self._labels):
            window.add(at, increase)
        self._all.merge(increase)
        self._gap(at, bool(reading.samples))
        if self._alarms is not None and reading.samples:  # of a gap no reference is known, nor any image
            self._judged = self._alarms.step(Look(at=at, increase=increase, references=found.usable))
            problems += (
                f"{', '.join(place)}: {one.problem}" for place, one in self._judged.items() if one.problem
            )
        return self._say(at, problems, found)

    # Time

    def _now(self, at: float, problems: list[str]) -> float:
        """The time of a reading, which never goes back."""
        if at < self._at - self.settings.window_s:
            problems.append(f"the source's clock went back by {self._at - at:.0f} s: the windows start anew")
            self._window.clear()
            self._labels.clear()
            self._points.clear()
            self._gaps.clear()
            self._at = self._counted_at = at
        elif at < self._at - 1:
            problems.append(f"the source's clock went back by {self._at - at:.0f} s")
        self._at = max(self._at, at)
        return self._at

    def _gap(self, at: float, counted: bool) -> None:
        """Remembers a time in which nothing could be read, while it is in the window."""
        longest = max(_LATE * self.settings.every_s, _LEAST_GAP_S, 2 * self._source.step_s)
        if counted:
            if self._counted_at and at - self._counted_at > longest:
                self._gaps.append((self._counted_at, at))
            self._counted_at = at
        self._gaps = [gap for gap in self._gaps if gap[1] > at - self.settings.window_s]

    def _said_gaps(self) -> list[str]:
        return [
            f"nothing was read from {_clock(start)} to {_clock(end)}; "
            "what was counted meanwhile counts as of its end"
            for start, end in self._gaps
        ]

    # References

    def _forget_changed(self, usable: Mapping[str, ReferenceValues], increase: Counts) -> None:
        """Starts a route anew that answers with other versions: its counts so far are not theirs."""
        for route, values in usable.items():
            if self._digests.setdefault(route, values.identity) == values.identity:
                continue
            self._digests[route] = values.identity
            for counted in (increase, self._all, self._window, self._labels):
                counted.drop(route)

    # Status

    def _say(self, at: float, problems: list[str], found: References) -> Status:
        if self._confusions is not None and self._confusions.problem:
            problems.append(self._confusions.problem)
        windows = Windows(images=self._window.total(), labels=self._labels.total(), all=self._all)
        domains: dict[str, list[str]] = {}
        for route, domain in self._all.places("corolla_predictions_total"):
            domains.setdefault(route, []).append(domain)
        self.status = Status(
            at=at,
            source=self._source.name,
            problems=tuple(dict.fromkeys([*problems, *self._said_gaps()])),
            window_s=self.settings.window_s,
            label_window_s=self.settings.label_window_s,
            routes=tuple(
                self._route(at, route, domains.get(route, []), found, windows)
                for route in sorted({*domains, *self._named, *found.status, *found.problems})
            ),
        )
        return self.status

    def _route(
        self, at: float, route: str, domains: list[str], found: References, windows: Windows
    ) -> RouteStatus:
        values = found.usable.get(route)
        return RouteStatus(
            route=route,
            reference=found.status.get(route),
            unusable=route in found.problems,
            problem="" if values else found.problems.get(route) or _no_reference(route),
            domains=tuple(self._domain(at, (route, domain), values, windows) for domain in domains),
        )

    def _domain(
        self, at: float, place: Place, values: ReferenceValues | None, windows: Windows
    ) -> DomainStatus:
        confusion = self._confusions.of(values) if self._confusions is not None and values else None
        status = domain_status(place, windows, values, confusion)
        judged = self._judged.get(place, Judgement())
        return status.model_copy(
            update={
                "alarms": judged.alarms,
                "headline": doubted(status.headline, judged.alarms),
                "evidence": dict(judged.evidence),
                "threshold": judged.threshold,
                "history": self._points.after(at, place, status),
            }
        )

    # State

    def state(self) -> JsonValue:
        """All that it knows, to go on from after a restart."""
        names = SeriesNames()
        return {
            "format": FORMAT,
            "source": self._source.name,
            "at": self._at,
            "counted_at": self._counted_at,
            "totals": self._totals.state(),
            "digests": dict(self._digests),
            "all": self._all.state(names),
            "window": self._window.state(names),
            "labels": self._labels.state(names),
            "series": names.state(),
            "points": self._points.state(),
            "alarms": None if self._alarms is None else self._alarms.state(),
        }

    def restore(self, state: Any) -> None:
        """Goes on from a state, before the first step.

        Raises:
            Corrupt: It is not one.
            InvalidInput: It is of another source, or of a newer version.
        """
        try:
            source, form = str(state["source"]), int(state["format"])
            if form != FORMAT:
                raise InvalidInput(
                    f"it has format {form}, and this version reads {FORMAT}", remedy="remove the file"
                )
            if source != self._source.name:
                raise InvalidInput(f"it is of {source}", remedy="name another file, or remove this one")
            self._at, self._counted_at = float(state["at"]), float(state["counted_at"])
            # A server that is new since then is counted from its start.
            self._totals = Totals(min(self._at, self._source.origin))
            self._totals.restore(state["totals"])
            self._digests = {str(route): str(digest) for route, digest in state["digests"].items()}
            names = SeriesNames.restored(state["series"])
            self._all = Counts.restored(state["all"], names)
            self._window.restore(state["window"], names)
            self._labels.restore(state["labels"], names)
            self._points.restore(state["points"])
            if self._alarms is not None and state["alarms"] is not None:
                self._alarms.restore(state["alarms"])
        except (InvalidInput, Corrupt):
            raise
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise Corrupt("it is not the state of an evaluator", remedy="remove the file") from error


def _named_routes(reading: Reading) -> frozenset[str]:
    """The routes that servers know by a name, also those without images."""
    routes = (
        dict(sample.labels).get("route", "")
        for sample in reading.samples
        if sample.name == "corolla_predictions_total"
    )
    return frozenset(route for route in routes if "/" in route)


def _no_reference(route: str) -> str:
    if "/" not in route:
        return "routes without a name have no reference"
    return f"no reference; measure one: {command(route)}"


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at)) + " UTC"
