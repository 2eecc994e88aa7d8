"""The references that servers say they compare with, and whether they can be used."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from serving.monitor.look import ReferenceValues
from serving.monitor.samples import Reading, Sample
from serving.monitor.status import ReferenceStatus

_PREFIX = "corolla_reference_"
_VALUES = {
    "images": "images",
    "accuracy": "accuracy_ratio",
    "confidence": "confidence_ratio",
    "agreement": "agreement_ratio",
}
_MAPPINGS = {
    "member_accuracies": ("member_accuracy_ratio", "member"),
    "pair_agreements": ("pair_agreement_ratio", "pair"),
    "bins": ("bin_ratio", "bin"),
    "estimates": ("estimate_ratio", "method"),
    "rates": ("rate_ratio", "indicator"),
}


@dataclass(frozen=True, kw_only=True)
class References:
    """What a reading says.

    Attributes:
        usable: By route, those that all servers agree on and that are not stale.
        status: By route, also those that cannot be used.
        problems: By route, why there is none that can be used.
    """

    usable: Mapping[str, ReferenceValues] = field(default_factory=dict)
    status: Mapping[str, ReferenceStatus] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


def references(reading: Reading) -> References:
    """Those of all routes that have one."""
    by_route: dict[str, list[Sample]] = {}
    for sample in reading.samples:
        route = dict(sample.labels).get("route")
        if route and sample.name.startswith(_PREFIX) and math.isfinite(sample.value):
            by_route.setdefault(route, []).append(sample)
    usable: dict[str, ReferenceValues] = {}
    status: dict[str, ReferenceStatus] = {}
    problems: dict[str, str] = {}
    for route, samples in by_route.items():
        values, problem = _values(samples), _problem(route, samples)
        if values is None:
            if problem:
                problems[route] = problem
            continue
        status[route] = ReferenceStatus(
            digest=values.digest,
            data=values.data,
            images=values.images,
            accuracy=values.accuracy,
            confidence=values.confidence,
            agreement=values.agreement,
            stale=bool(problem),
        )
        if problem:
            problems[route] = problem
        else:
            usable[route] = values
    return References(usable=usable, status=status, problems=problems)


def command(route: str) -> str:
    """What measures the reference of a named route."""
    task, _, name = route.partition("/")
    return f"corolla routes reference {name} --task {task}"


def _problem(route: str, samples: Iterable[Sample]) -> str:
    """Why the reference of a route cannot be used; empty where it can."""
    stale = sorted(one.instance for one in samples if one.name == f"{_PREFIX}stale" and one.value > 0)
    servers = {one.instance for one in samples if one.name == f"{_PREFIX}stale"}
    holding: dict[tuple[str, ...], list[str]] = {}
    for one in _infos(samples):
        labels = dict(one.labels)
        key = tuple(labels.get(label, "") for label in ("digest", "data", "reference"))
        holding.setdefault(key, []).append(one.instance)
    few = next((one.value for one in samples if one.name == f"{_PREFIX}images" and one.value), 0.0)
    without = sorted(servers - {instance for instances in holding.values() for instance in instances})
    if len(holding) > 1:
        held = ", ".join(
            f"{digest[:12]} on {data[:12]} ({', '.join(sorted(names))})"
            for (digest, data, _), names in sorted(holding.items())
        )
        return f"servers compare {route} with different references, as while adapters are rolled out: {held}"
    if stale:
        return (
            f"{route} is not what its reference was measured on ({', '.join(stale)}); measure it again: "
            f"{command(route)}"
        )
    if without and holding:
        return f"not all servers have the reference of {route}: {', '.join(without)}"
    if holding and few and not any(one.name == f"{_PREFIX}accuracy_ratio" for one in samples):
        return f"the reference of {route} has {few:.0f} images, too few to estimate from"
    return ""


def _infos(samples: Iterable[Sample]) -> list[Sample]:
    return [one for one in samples if one.name == f"{_PREFIX}info" and one.value > 0]


def _values(samples: list[Sample]) -> ReferenceValues | None:
    """What the gauges say; where servers do not agree, of one of them."""
    infos = _infos(samples)
    if not infos:
        return None
    info = min(infos, key=lambda one: (one.labels, one.instance))
    own = [one for one in samples if one.instance == info.instance]
    numbers = {
        name: one.value for name, gauge in _VALUES.items() for one in own if one.name == f"{_PREFIX}{gauge}"
    }
    if "images" not in numbers or "accuracy" not in numbers:
        return None
    labels = dict(info.labels)
    return ReferenceValues(
        digest=labels.get("digest", ""),
        data=labels.get("data", ""),
        reference=labels.get("reference", ""),
        images=int(numbers["images"]),
        accuracy=numbers["accuracy"],
        confidence=numbers.get("confidence"),
        agreement=numbers.get("agreement"),
        **{
            name: {dict(one.labels)[label]: one.value for one in own if one.name == f"{_PREFIX}{gauge}"}
            for name, (gauge, label) in _MAPPINGS.items()
        },
    )
