"""What a named route answers by now: its versions, and the temperature and thresholds that belong to them.

A temperature belongs to the versions that it was put for, and so do a cascade's thresholds. When others
answer, since an alias has moved or the route follows `latest`, they are not applied, and a note says so: a
cascade then asks all its members.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model_store.format.records import Cascade, ExactVersion, NamedRoute
from model_store.names import BASE
from model_store.resolution import versions
from model_store.resolution.versions import ResolvedRoute, ResolvedTerm
from model_store.routes.algebra import Route
from model_store.store import Store
from petl_vit.combine import Combine
from petl_vit.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Answering:
    """A named route now.

    Attributes:
        temperature: What divides its combined logits now; a cascade's, once it has asked all its members.
        note: Why that is not the stored temperature, or may not fit, or why a cascade's thresholds are not
            applied; empty where all is as stored.
        cascade: The thresholds by which a cascade answers; None where all its members do, and for any other
            route.
    """

    resolved: ResolvedRoute
    temperature: float
    note: str
    cascade: Cascade | None = None


def answering(store: Store, named: NamedRoute, backbone_digest: str | None = None) -> Answering:
    """What a named route answers by now.

    Args:
        backbone_digest: What has to run it; None is the backbone of its first adapter.

    Raises:
        NotFound, InvalidInput, Unsupported: It cannot be answered: a cascade too whose thresholds were never
            learnt.
    """
    resolved = versions_now(store, named, backbone_digest)
    if resolved.combine is Combine.CASCADE:
        return _cascade(named, resolved)
    temperature, note = _temperature(named, resolved)
    return Answering(resolved=resolved, temperature=temperature, note=note)


def versions_now(store: Store, named: NamedRoute, backbone_digest: str | None = None) -> ResolvedRoute:
    """The versions that a named route means by now, whether or not it can answer; else as `answering`."""
    route = named.parsed()
    return versions.resolve(
        route,
        task=named.task,
        store=store,
        backbone_digest=backbone_digest or versions.backbone_of(route, task=named.task, store=store),
        extrapolate=named.extrapolate,
    )


def uncalibrated(route: Route | ResolvedRoute, named: NamedRoute | None = None) -> InvalidInput:
    """The error of a cascade that has no thresholds."""
    if named is None:
        return InvalidInput(
            f"{route} is a cascade by its text alone, and its thresholds have to be learnt",
            field="route",
            remedy="learn them with `corolla routes calibrate ... --as NAME`, and ask for that name",
        )
    return InvalidInput(
        f"the thresholds of cascade {named.name} were not learnt yet",
        field="route",
        remedy=f"learn them: {calibrate_command(named)}",
    )


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


def same_versions(named: NamedRoute, resolved: ResolvedRoute) -> bool:
    """Whether a named route's temperature and thresholds belong to these versions."""
    now = exact_versions(resolved)
    return [version.digest for version in now] == [version.digest for version in named.versions]


def _cascade(named: NamedRoute, resolved: ResolvedRoute) -> Answering:
    if named.cascade is None:
        raise uncalibrated(resolved, named)
    if same_versions(named, resolved):
        return Answering(resolved=resolved, temperature=named.temperature, note="", cascade=named.cascade)
    note = (
        f"the thresholds are for {_listed(named.versions)} and are not applied: all members answer, "
        f"{_listed(exact_versions(resolved))}; learn them for these with {calibrate_command(named)}"
    )
    return Answering(resolved=resolved, temperature=1.0, note=note)


def calibrate_command(named: NamedRoute) -> str:
    """What learns the thresholds of a cascade, as a user types it."""
    return f"`corolla routes calibrate {named.name} --task {named.task} --data IMAGES`"


def _temperature(named: NamedRoute, resolved: ResolvedRoute) -> tuple[float, str]:
    default, why = default_temperature(resolved)
    if not named.versions:
        return named.temperature, _unrecorded(named, default)
    if same_versions(named, resolved):
        return named.temperature, ""
    now = exact_versions(resolved)
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
