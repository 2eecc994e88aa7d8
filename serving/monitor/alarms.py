"""Alarms whose probability of ever being false is bounded, from counters alone.

The evidence of every indicator against "its mean is what it was on the reference images" is an e-process
(`petl_vit.evidence`), so it may be looked at as often as one likes. docs/alarms.md states what is promised,
proves it and says on what it rests. All that is known is a function of the looks, in order.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Self

from pydantic import BaseModel, ConfigDict, FiniteFloat, JsonValue, ValidationError

from petl_vit.errors import Corrupt
from petl_vit.evidence import Candidate, Evidence, candidates, merged
from serving.monitor.alarm_settings import AlarmSettings, SettingsByRoute
from serving.monitor.indicators import INDICATORS, KINDS, Counted, heavier_than
from serving.monitor.look import Judgement, Look, ReferenceValues
from serving.monitor.samples import Place
from serving.monitor.status import Alarm, Kind

_VERSION = 1
_IMAGES = "corolla_predictions_total"
_PLACES = (_IMAGES, "corolla_feedback_total")
_SHOWN_S = 3600.0  # an alarm of a route that has no usable reference any more
_KEPT_S = 7 * 86400.0
_SILENT_S = 86400.0  # a raised alarm of a domain without images or labels ends after it


def domain_share(known: int, new: int) -> float:
    """The share of alpha of each of some domains that appear at once, after others that are known.

    The shares of all domains, however many come, add up to 1 at most: the first one alone has a half.
    """
    return (1 / (known + 1) - 1 / (known + new + 1)) / new


@lru_cache(maxsize=1024)
def allowed(indicator: str, mean: float, images: int, margin: float, most: float) -> tuple[Candidate, ...]:
    """What the mean of an indicator may be while nothing has changed.

    Args:
        mean: On so many reference images.
        most: What evidence has to be able to reach, as a natural logarithm.
    """
    bound = INDICATORS[indicator].bound
    return candidates(lambda level: bound(mean, images, level), margin=margin, most=most)


class _State(BaseModel):
    """What is kept; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Watch(_State):
    """One kind of alarm of a route in a domain.

    Attributes:
        evidence: By indicator.
        carried: By indicator, what its sum was ahead of its images by: counters of one image need not rise in
            one scrape.
        images: Images, or labels by their weights, since it began.
        raised: The alarm, while there is one.
    """

    evidence: dict[str, Evidence]
    carried: dict[str, FiniteFloat] = {}
    images: FiniteFloat = 0.0
    raised: Alarm | None = None


class _Domain(_State):
    """One domain of a route.

    Attributes:
        share: Of alpha.
        heard: When it last had an image or a label.
    """

    share: FiniteFloat
    watches: dict[Kind, _Watch]
    heard: FiniteFloat | None = None


class _Basis(_State):
    """What the evidence of a route rests on; where that changes, it begins anew."""

    digest: str
    data: str
    images: int
    rates: dict[str, FiniteFloat]
    settings: AlarmSettings

    @classmethod
    def of(cls, reference: ReferenceValues, settings: AlarmSettings) -> Self:
        known = {
            name: reference.rates[name]
            for name in INDICATORS
            if reference.images >= 1 and 0 <= reference.rates.get(name, math.nan) <= 1
        }
        return cls(
            digest=reference.digest,
            data=reference.data,
            images=reference.images,
            rates=known,
            settings=settings,
        )

    def threshold(self, share: float) -> float:
        """What merged evidence has to reach with a share of alpha of each kind, as a logarithm to base 10."""
        return -math.log10(self.settings.alpha / len(KINDS) * share)

    def start(self, kind: Kind, share: float) -> dict[str, Evidence]:
        """The evidence of all indicators of a kind that the reference has, before any image."""
        margin, block = self.settings.margin_of(kind), self.settings.block
        most = self.limit(kind, share) * math.log(10)
        return {
            name: Evidence.start(*allowed(name, self.rates[name], self.images, margin, most), block=block)
            for name in KINDS[kind]
            if name in self.rates
        }

    def limit(self, kind: Kind, share: float) -> float:
        """What one indicator alone has to reach, as a logarithm to base 10."""
        return self.threshold(share) + math.log10(len(KINDS[kind]))


class _Route(_State):
    """One route.

    Attributes:
        seen: When its reference was usable last.
        waited: It was not at the last look.
    """

    basis: _Basis
    seen: FiniteFloat
    waited: bool = False
    domains: dict[str, _Domain] = {}


class _Everything(_State):
    version: int = _VERSION
    routes: dict[str, _Route] = {}

    def evidence(self) -> Iterator[Evidence]:
        """Of all routes, domains, kinds and indicators."""
        for route in self.routes.values():
            for domain in route.domains.values():
                for watch in domain.watches.values():
                    yield from watch.evidence.values()


class SequentialAlarms:
    """Raises alarms, and ends them: see `serving.monitor.look.Alarms`.

    Args:
        settings: Of all routes; default: the defaults.
    """

    def __init__(self, settings: SettingsByRoute | None = None) -> None:
        self._settings = settings or SettingsByRoute()
        self._routes: dict[str, _Route] = {}

    def step(self, look: Look) -> Mapping[Place, Judgement]:
        """Takes one look, and says what is true after it."""
        problems: dict[Place, str] = {}
        for route, reference in look.references.items():
            problems |= self._take(route, reference, look)
        for route in self._routes.keys() - look.references.keys():
            self._routes[route].waited = True
        self._routes = {name: one for name, one in self._routes.items() if look.at - one.seen <= _KEPT_S}
        return {
            (route, domain): Judgement(
                alarms=tuple(watch.raised for watch in one.watches.values() if watch.raised is not None),
                evidence=dict(_evidence(one)),
                threshold=known.basis.threshold(one.share),
                problem=problems.get((route, domain), ""),
            )
            for route, known in self._routes.items()
            if look.at - known.seen <= _SHOWN_S
            for domain, one in known.domains.items()
        }

    def state(self) -> JsonValue:
        """All that it knows, to go on from after a restart."""
        found: JsonValue = _Everything(routes=self._routes).model_dump(mode="json")
        return found

    def restore(self, state: JsonValue) -> None:
        """Goes on from a state.

        Raises:
            Corrupt: It is not one.
        """
        try:
            everything = _Everything.model_validate(state)
        except ValidationError as error:
            raise Corrupt(
                f"the state of the alarms cannot be read: {error.errors()[0]['msg']}", field="alarms"
            ) from error
        if everything.version != _VERSION:
            raise Corrupt(f"version {everything.version} of the state is not known", field="alarms")
        if not all(evidence.sound for evidence in everything.evidence()):
            raise Corrupt(
                "the state of the alarms is damaged, or its bets are of another version", field="alarms"
            )
        self._routes = everything.routes

    def _take(self, route: str, reference: ReferenceValues, look: Look) -> dict[Place, str]:
        """Takes what was counted of one route; what could not be."""
        basis, known = _Basis.of(reference, self._settings.of(route)), self._routes.get(route)
        if known is None or known.basis != basis:
            changed = known is not None
            known = self._routes[route] = _Route(basis=basis, seen=look.at)
            if changed:
                return {}  # what was counted since the last look may be of what answered before
        known.seen, waited = look.at, known.waited
        known.waited = False
        if waited:
            return {}  # likewise
        places = [place for name in _PLACES for place in look.increase.places(name)]
        _add_domains(known, sorted({domain for name, domain in places if name == route}))
        problems = {}
        for domain, one in known.domains.items():
            counted = Counted(
                counts=look.increase,
                route=route,
                domain=domain,
                reference=reference,
                settings=basis.settings,
            )
            _listen(one, counted, basis, look.at)
            for kind, watch in one.watches.items():
                if problem := _problem(kind, counted):
                    problems[route, domain] = problem
                else:
                    _count(watch, kind, counted)
                _decide(watch, kind, counted, basis, one.share, look.at)
        return problems


def _add_domains(route: _Route, domains: Sequence[str]) -> None:
    new = [domain for domain in domains if domain not in route.domains]
    if not new:
        return
    share = domain_share(len(route.domains), len(new))
    for domain in new:
        watches = {kind: _Watch(evidence=route.basis.start(kind, share)) for kind in KINDS}
        route.domains[domain] = _Domain(share=share, watches=watches)


def _listen(domain: _Domain, counted: Counted, basis: _Basis, at: float) -> None:
    """Ends the alarms of a domain that nothing has come from for long: no image would end them."""
    if domain.heard is None or any(counted.total(name) for name in _PLACES):
        domain.heard = at
    elif at - domain.heard >= _SILENT_S:
        for kind, watch in domain.watches.items():
            if watch.raised is not None:
                domain.watches[kind] = _Watch(evidence=basis.start(kind, domain.share))


def _problem(kind: Kind, counted: Counted) -> str:
    """Why what was counted cannot be evidence; empty where it can."""
    if kind != "accuracy" or counted.settings.labels != "requested":
        return ""
    weight = heavier_than(counted)
    if weight is None:
        return ""
    return (
        f"requested labels are not evidence of accuracy: they speak for {weight:.0f} images each, so that "
        f"a server's --label-share is below {counted.settings.label_share:g}; set label_share to the least"
    )


def _count(watch: _Watch, kind: Kind, counted: Counted) -> None:
    """Adds one look to the evidence."""
    if kind == "shift":
        watch.images += counted.total(_IMAGES)
    for name, evidence in watch.evidence.items():
        images, total = INDICATORS[name].sums(counted)
        if kind == "accuracy":
            watch.images += images
        wanted = total + watch.carried.get(name, 0.0)
        taken = min(max(wanted, 0.0), images)
        watch.carried[name] = wanted - taken
        watch.evidence[name] = evidence.after(images, taken)


def _decide(watch: _Watch, kind: Kind, counted: Counted, basis: _Basis, share: float, at: float) -> None:
    """An alarm is raised at the threshold, and ends when nothing is left of the evidence."""
    reached = _merged(watch, kind)
    if watch.raised is None and reached >= basis.threshold(share):
        watch.raised = Alarm(
            route=counted.route,
            domain=counted.domain,
            kind=kind,
            indicator=max(watch.evidence, key=lambda name: watch.evidence[name].e_value),
            e_value=reached,
            threshold=basis.threshold(share),
            images=round(watch.images),
            first_seen=at,
        )
    elif watch.raised is not None and reached <= 0:
        watch.evidence, watch.images, watch.raised = basis.start(kind, share), 0.0, None
    limit = basis.limit(kind, share)
    watch.evidence = {name: one.at_most(limit) for name, one in watch.evidence.items()}


def _merged(watch: _Watch, kind: Kind) -> float:
    """Of all indicators of the kind; one that is not known says nothing, an e-value of 1."""
    known = [one.e_value for one in watch.evidence.values()]
    return merged([*known, *[0.0] * (len(KINDS[kind]) - len(known))])


def _evidence(domain: _Domain) -> Iterator[tuple[str, float]]:
    """By indicator, and merged: that of a kind with several indicators under the name of the kind."""
    for kind, watch in domain.watches.items():
        if not watch.evidence:
            continue
        if len(KINDS[kind]) > 1:
            yield kind, _merged(watch, kind)
        for name, one in watch.evidence.items():
            yield name, one.e_value
