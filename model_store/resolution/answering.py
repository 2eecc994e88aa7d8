"""What a named route answers by now: the versions that it means, and the temperature that belongs to them.

A temperature belongs to the versions that it was put for. When others answer, since an alias has moved or the
route follows `latest`, it is not applied, and a note says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model_store.format.records import ExactVersion, NamedRoute
from model_store.names import BASE
from model_store.resolution import versions
from model_store.resolution.versions import ResolvedRoute, ResolvedTerm
from model_store.store import Store


@dataclass(frozen=True, kw_only=True)
class Answering:
    """A named route now.

    Attributes:
        temperature: What divides its combined logits now.
        note: Why that is not the stored temperature, or may not fit; empty where it is and does.
    """

    resolved: ResolvedRoute
    temperature: float
    note: str


def answering(store: Store, named: NamedRoute, backbone_digest: str | None = None) -> Answering:
    """What a named route answers by now.

    Args:
        backbone_digest: What has to run it; None is the backbone of its first adapter.

    Raises:
        NotFound, InvalidInput, Unsupported: It cannot be answered.
    """
    route = named.parsed()
    resolved = versions.resolve(
        route,
        task=named.task,
        store=store,
        backbone_digest=backbone_digest or versions.backbone_of(route, task=named.task, store=store),
        extrapolate=named.extrapolate,
    )
    temperature, note = _temperature(named, resolved)
    return Answering(resolved=resolved, temperature=temperature, note=note)


def default_temperature(resolved: ResolvedRoute) -> tuple[float, str]:
    """The temperature of a route for which none is given, and where it comes from."""
    term = _single(resolved)
    if term is None:
        return 1.0, "the default of a route that is not one adapter"
    if term.manifest is None:
        return 1.0, f"the default of a route that is not one adapter but {BASE}"
    unfitted = term.manifest.training.get("temperature_unfitted")
    if unfitted is not None:
        return term.manifest.temperature, f"not fitted for {term.label}, as {unfitted}"
    return term.manifest.temperature, f"fitted for {term.label} on held-out data"


def exact_versions(resolved: ResolvedRoute) -> tuple[ExactVersion, ...]:
    """What every term of a route means, in order."""
    return tuple(
        ExactVersion(adapter=term.full_name, digest=term.digest)
        for member in resolved.members
        for term in member.terms
    )


def _temperature(named: NamedRoute, resolved: ResolvedRoute) -> tuple[float, str]:
    default, why = default_temperature(resolved)
    if not named.versions:
        return named.temperature, _unrecorded(named, default)
    now = exact_versions(resolved)
    if [version.digest for version in now] == [version.digest for version in named.versions]:
        return named.temperature, ""
    if named.temperature == default:
        return default, ""
    stored = f"temperature {named.temperature:.4g} is for {_listed(named.versions)} and is not applied"
    if default != 1:
        return default, f"{stored}: {_listed(now)} answers at {default:.4g}, {why}"
    return default, (
        f"{stored}: {_listed(now)} answer at 1; fit it for these with `corolla routes fit {named.name} "
        f"--task {named.task} --data IMAGES`, or put the route again with a --temperature"
    )


def _unrecorded(named: NamedRoute, default: float) -> str:
    """What to say of a temperature that was stored without the versions that it was fitted for."""
    if not named.parsed().moving or named.temperature in (1.0, default):
        return ""
    return (
        f"temperature {named.temperature:.4g} was stored without the versions that it is for, so it is "
        "applied to whatever answers; put the route again"
    )


def _single(resolved: ResolvedRoute) -> ResolvedTerm | None:
    """The one adapter, or base, that a route is, exactly as trained."""
    (first, *others) = (term for member in resolved.members for term in member.terms)
    return first if not others and first.alpha == 1 else None


def _listed(versions_: Sequence[ExactVersion]) -> str:
    return ", ".join(dict.fromkeys(version.adapter for version in versions_))
