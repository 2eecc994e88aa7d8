"""Alarms whose probability of ever being false is bounded, from counters alone.

The evidence of every indicator against "its mean is what it was on the reference images" is an e-process
(`petl_vit.evidence`), so it may be looked at as often as one likes. docs/alarms.md states what is promised,
proves it and says on what it rests. All that is known is a function of the looks, in order.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, FiniteFloat, JsonValue, ValidationError

from petl_vit.errors import Corrupt
from petl_vit.evidence import Evidence, merged
from serving.monitor.alarm_settings import AlarmSettings, SettingsByRoute
from serving.monitor.indicators import INDICATORS, KINDS, Counted
from serving.monitor.look import Judgement, Look, ReferenceValues
from serving.monitor.samples import Place
from serving.monitor.status import Alarm, Kind

_VERSION = 1
_IMAGES = "corolla_predictions_total"
_LABELS = "corolla_feedback_total"
_FIRST_DOMAINS = 0.9
_SHOWN_S = 3600.0  # an alarm of a route that has no usable reference any more
_KEPT_S = 7 * 86400.0


def domain_share(batch: int) -> float:
    """The share of alpha of all domains that appear at once.

    Args:
        batch: 0 of the domains that were there at first, 1 of those that came next, and so on: the shares of
            all batches, however many come, add up to 1.
    """
    return _FIRST_DOMAINS if batch == 0 else (1 - _FIRST_DOMAINS) / (batch * (batch + 1))


def allowed_rates(reference: ReferenceValues, settings: AlarmSettings) -> dict[str, float]:
    """What the mean of each indicator exceeds, while nothing has changed, with a small probability.

    It is an upper confidence bound of the reference's mean, and the margin. The probabilities that the bounds
    are wrong add up to alpha / 2.
    """
    rates = {}
    for name, indicator in INDICATORS.items():
        mean = reference.rates.get(name, math.nan)
        if not 0 <= mean <= 1 or reference.images < 1:
            continue
        level = settings.alpha / (2 * len(KINDS) * len(KINDS[indicator.kind]))
        bound = indicator.bound(mean, reference.images, level)
        rates[name] = min(bound + settings.margin_of(indicator.kind), 1.0)
    return rates


class _State(BaseModel):
    """What is kept; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Watch(_State):
    """One kind of alarm of a route in a domain.

    Attributes:
        evidence: By indicator.
        carried: By indicator, what its sum was ahead of its images by: counters of one image need not rise in
            one scrape.
        images: Images, or labels, since it began.
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
    """

    share: FiniteFloat
    watches: dict[Kind, _Watch]


class _Basis(_State):
    """What the evidence of a route is against; where that changes, it begins anew."""

    digest: str
    data: str
    images: int
    block: int
    rates: dict[str, FiniteFloat]


class _Route(_State):
    """One route.

    Attributes:
        seen: When its reference was usable last.
        batches: How often domains appeared.
    """

    basis: _Basis
    seen: FiniteFloat
    batches: int = 0
    domains: dict[str, _Domain] = {}


class _Everything(_State):
    version: int = _VERSION
    routes: dict[str, _Route] = {}


class SequentialAlarms:
    """Raises alarms, and ends them: see `serving.monitor.look.Alarms`.

    Args:
        settings: Of all routes; default: the defaults.
    """

    def __init__(self, settings: SettingsByRoute | None = None) -> None:
        self._settings = settings or SettingsByRoute()
        self._routes: dict[str, _Route] = {}
        self._bases: dict[str, tuple[ReferenceValues, _Basis]] = {}

    def step(self, look: Look) -> Mapping[Place, Judgement]:
        """Takes one look, and says what is true after it."""
        for route, reference in look.references.items():
            self._take(route, reference, look)
        self._routes = {name: one for name, one in self._routes.items() if look.at - one.seen <= _KEPT_S}
        return {
            (route, domain): _judgement(one, _threshold(self._settings.of(route), one.share))
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
        self._routes = everything.routes

    def _take(self, route: str, reference: ReferenceValues, look: Look) -> None:
        basis, known = self._basis(route, reference), self._routes.get(route)
        if known is None or known.basis != basis:
            changed = known is not None
            known = self._routes[route] = _Route(basis=basis, seen=look.at)
            if changed:
                return  # what was counted since the last look may be of what answered before
        known.seen = look.at
        places = look.increase.places(_IMAGES) + look.increase.places(_LABELS)
        _add_domains(known, sorted({domain for name, domain in places if name == route}))
        for domain, one in known.domains.items():
            counted = Counted(counts=look.increase, route=route, domain=domain, reference=reference)
            threshold = _threshold(self._settings.of(route), one.share)
            for kind, watch in one.watches.items():
                _watch(watch, kind, counted, threshold, basis, look.at)

    def _basis(self, route: str, reference: ReferenceValues) -> _Basis:
        """Bounds are computed once for each reference."""
        kept = self._bases.get(route)
        if kept is None or kept[0] != reference:
            own = self._settings.of(route)
            basis = _Basis(
                digest=reference.digest,
                data=reference.data,
                images=reference.images,
                block=own.block,
                rates=allowed_rates(reference, own),
            )
            kept = self._bases[route] = (reference, basis)
        return kept[1]


def _threshold(settings: AlarmSettings, share: float) -> float:
    """What merged evidence has to reach, as a logarithm to base 10: half of alpha, by kinds and domains."""
    return -math.log10(settings.alpha / 2 / len(KINDS) * share)


def _add_domains(route: _Route, domains: Sequence[str]) -> None:
    new = [domain for domain in domains if domain not in route.domains]
    if not new:
        return
    share = domain_share(route.batches) / len(new)
    route.batches += 1
    for domain in new:
        watches = {kind: _started(names, route.basis) for kind, names in KINDS.items()}
        route.domains[domain] = _Domain(share=share, watches=watches)


def _started(names: Sequence[str], basis: _Basis) -> _Watch:
    known = (name for name in names if name in basis.rates)
    return _Watch(evidence={name: Evidence.start(basis.rates[name], block=basis.block) for name in known})


def _watch(watch: _Watch, kind: Kind, counted: Counted, threshold: float, basis: _Basis, at: float) -> None:
    """One look at one kind of alarm: raised at the threshold, ended when nothing is left of the evidence."""
    watch.images += counted.total(_LABELS if kind == "accuracy" else _IMAGES)
    for name, evidence in watch.evidence.items():
        images, total = INDICATORS[name].sums(counted)
        wanted = total + watch.carried.get(name, 0.0)
        taken = min(max(wanted, 0.0), images)
        watch.carried[name] = wanted - taken
        watch.evidence[name] = evidence.after(images, taken)
    reached = _merged(watch, kind)
    if watch.raised is None and reached >= threshold:
        watch.raised = Alarm(
            route=counted.route,
            domain=counted.domain,
            kind=kind,
            indicator=max(watch.evidence, key=lambda name: watch.evidence[name].e_value),
            e_value=reached,
            threshold=threshold,
            images=round(watch.images),
            first_seen=at,
        )
    elif watch.raised is not None and reached <= 0:
        begun = _started(KINDS[kind], basis)
        watch.evidence, watch.images, watch.raised = begun.evidence, 0.0, None
    elif watch.raised is not None and reached > watch.raised.e_value:
        watch.raised = watch.raised.model_copy(update={"e_value": reached})
    limit = threshold + math.log10(len(KINDS[kind]))
    watch.evidence = {name: one.at_most(limit) for name, one in watch.evidence.items()}


def _merged(watch: _Watch, kind: Kind) -> float:
    """Of all indicators of the kind; one that is not known says nothing, an e-value of 1."""
    known = [one.e_value for one in watch.evidence.values()]
    return merged([*known, *[0.0] * (len(KINDS[kind]) - len(known))])


def _judgement(domain: _Domain, threshold: float) -> Judgement:
    return Judgement(
        alarms=tuple(one.raised for one in domain.watches.values() if one.raised is not None),
        evidence=dict(_evidence(domain)),
        threshold=threshold,
    )


def _evidence(domain: _Domain) -> Iterator[tuple[str, float]]:
    """By indicator, and merged: that of a kind with several indicators under the name of the kind."""
    for kind, watch in domain.watches.items():
        if not watch.evidence:
            continue
        if len(KINDS[kind]) > 1:
            yield kind, _merged(watch, kind)
        for name, one in watch.evidence.items():
            yield name, one.e_value
