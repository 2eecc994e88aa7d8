"""Which reference belongs to what answers now, and why one that was made before does not.

A reference belongs to exact adapters, weights, a temperature and, of a cascade, thresholds. When an alias has
moved, the route was put again or its temperature was fitted, it is stale: nothing is estimated by it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from model_store.format.records import Cascade, Manifest, NamedRoute
from model_store.format.reference import (
    Reference,
    ReferenceCascade,
    ReferenceMember,
    ReferenceRoute,
    ReferenceTerm,
)
from model_store.resolution.answering import Answering, answering
from model_store.resolution.versions import Member, ResolvedRoute, ResolvedTerm
from model_store.routes.alpha import values
from model_store.store import Store
from petl_vit.combine import Combine


@dataclass(frozen=True, kw_only=True)
class Referenced:
    """What there is to compare a route with.

    Attributes:
        reference: The newest of what answers now, else of what answered before; None where there is none.
        stale: Why it is not of what answers now; empty where it is, or there is none.
    """

    reference: Reference | None
    stale: str = ""


def referenced_route(
    resolved: ResolvedRoute, temperature: float, *, name: str = "", cascade: Cascade | None = None
) -> ReferenceRoute:
    """A route as a reference says it.

    Args:
        name: Of the named route or the adapter that it is.
        cascade: The thresholds that are applied, if any.
    """
    return ReferenceRoute.over(
        task=resolved.task.spec.name,
        name=name,
        text=str(resolved),
        combine=resolved.combine,
        temperature=temperature,
        task_digest=resolved.task.digest,
        members=[_member(member) for member in resolved.members],
        cascade=None
        if cascade is None
        else ReferenceCascade(score=cascade.score, order=cascade.order, stages=cascade.stages),
    )


def route_of(named: NamedRoute, now: Answering) -> ReferenceRoute:
    """A named route as it answers now."""
    return referenced_route(now.resolved, now.temperature, name=named.name, cascade=now.cascade)


def route_of_adapter(store: Store, manifest: Manifest) -> ReferenceRoute:
    """An adapter by itself, at its own temperature."""
    term = ResolvedTerm(alpha=1.0, manifest=manifest, task=store.tasks.of(manifest))
    members = (Member(weight=1.0, terms=(term,)),)
    resolved = ResolvedRoute(task=term.task, members=members, combine=Combine.MEAN)
    return referenced_route(resolved, manifest.temperature, name=term.label)


def of_named(store: Store, named: NamedRoute) -> Referenced:
    """The reference of a named route as it answers now, else the newest of what it answered by before.

    Raises:
        NotFound, InvalidInput, Unsupported: The route cannot be answered.
        Corrupt: A reference is damaged.
    """
    route = route_of(named, answering(store, named))
    current = store.references.of_route(route.digest)
    if current:
        return Referenced(reference=current[0])
    before = next((r for r in store.references.list() if is_former(r.route, route)), None)
    if before is None:
        return Referenced(reference=None)
    return Referenced(reference=before, stale=differences(before.route, route))


def of_adapter(store: Store, manifest: Manifest) -> Referenced:
    """The reference of an adapter by itself; that of its held-out images, if there is one.

    Raises:
        Corrupt: A reference is damaged.
    """
    references = store.references.of_route(route_of_adapter(store, manifest).digest)
    own = [r for r in references if r.data.digest == manifest.training.get("heldout_digest")]
    return Referenced(reference=next(iter([*own, *references]), None))


def _member(member: Member) -> ReferenceMember:
    return ReferenceMember(
        label=member.name,
        weight=member.weight,
        terms=tuple(
            ReferenceTerm(adapter=term.full_name, digest=term.digest, alpha=values(term.alpha))
            for term in member.terms
        ),
    )


def is_former(before: ReferenceRoute, now: ReferenceRoute) -> bool:
    """Whether a reference is of the same named route, or of members of the same names, as they were once."""
    if before.task != now.task:
        return False
    same = [(m.label, m.weight) for m in before.members] == [(m.label, m.weight) for m in now.members]
    return before.name == now.name or (same and before.combine == now.combine)


def differences(before: ReferenceRoute, now: ReferenceRoute) -> str:
    """What differs between a route that was measured and the one that answers now, in words."""
    return "; ".join(_changes(before, now))


def _changes(before: ReferenceRoute, now: ReferenceRoute) -> Iterator[str]:
    """What differs between two routes, one sentence for each kind."""
    models, models_now = (
        [(m.weight, [(t.digest, t.alpha) for t in m.terms]) for m in route.members] for route in (before, now)
    )
    if models != models_now or before.combine != now.combine:
        yield f"it was {before.text}, now {now.text}"
    if before.temperature != now.temperature:
        yield f"its temperature was {before.temperature:.4g}, now {now.temperature:.4g}"
    if before.cascade != now.cascade:
        yield "its cascade's thresholds are others"
    if before.task_digest != now.task_digest:
        yield "its task has another base head or other classes"
