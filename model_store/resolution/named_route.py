"""Naming a route: what is checked and pinned before it is stored under a name.

A named route keeps answering by the versions that it was put with: `lora` is stored as `lora:3`. Aliases stay
aliases, which people move; `latest`, which training moves, is kept only where that is asked for.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from model_store.format.records import NamedRoute
from model_store.names import LATEST
from model_store.resolution import versions
from model_store.resolution.answering import calibrate_command, default_temperature, exact_versions
from model_store.resolution.versions import ResolvedRoute, ResolvedTerm
from model_store.routes.algebra import AdapterRef, Route, Term
from model_store.routes.text import explain_route, parse_route
from model_store.store import Store
from petl_vit.combine import Combine
from petl_vit.errors import Corrupt, InvalidInput, NotFound


@dataclass(frozen=True, kw_only=True)
class Naming:
    """A route that may be stored under its name.

    Attributes:
        resolved: The route with the versions that it means now.
        why: Where its temperature comes from.
        shadows: Whether an adapter has the same name; that name alone then means the route.
        notes: What moves it later, and what does not.
    """

    route: NamedRoute
    resolved: str
    why: str
    shadows: bool
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What people should know about it: how it is read, and what it changes."""
        home, name = self.route.task, self.route.name
        lines = [f"route {home}/{name} = {self.route.route}"]
        lines += [f"  {line}" for line in explain_route(self.route.parsed(), home)]
        if self.route.parsed().combine is not Combine.CASCADE or self.route.cascade is not None:
            lines.append(f"temperature {self.route.temperature:g}: {self.why}")
        lines += self.notes
        if self.shadows:
            lines.append(
                f"note: {name} alone now means this route in task {home}; "
                f"the adapter of that name is {name}@{LATEST}"
            )
        return lines


def check(
    store: Store,
    *,
    task: str,
    name: str,
    text: str,
    temperature: float | None = None,
    extrapolate: bool = False,
    follow: bool = False,
    backbone_digest: str | None = None,
) -> Naming:
    """The route that a text means under a name, if it can be answered; stores nothing.

    Names are resolved once, so that the versions, the temperature and what is said of them agree, whatever
    is registered meanwhile.

    Args:
        temperature: Divides the combined logits; None is the fitted one of a single adapter, else 1.
        follow: Keep adapters that name no version as they are, so that training moves the route.
        backbone_digest: What has to run it; None is the backbone of its first adapter.

    Raises:
        InvalidInput: A bad name, text, alpha or temperature, or members that do not fit together.
        NotFound: An adapter that does not exist.
        Unsupported: An adapter of another backbone.
    """
    given = parse_route(text)
    resolved = versions.resolve(
        given,
        task=task,
        store=store,
        backbone_digest=backbone_digest or versions.backbone_of(given, task=task, store=store),
        extrapolate=extrapolate,
    )
    default, why = default_temperature(resolved)
    named = NamedRoute.of(
        task=task,
        name=name,
        route=str(pinned(given, resolved, follow=follow)),
        temperature=default if temperature is None else temperature,
        extrapolate=extrapolate,
        versions=exact_versions(resolved),
    )
    notes = [*_notes(given, resolved, follow)]
    if given.combine is Combine.CASCADE:
        _check_no_temperature(temperature)
        named, note = _with_thresholds(store, named)
        notes, why = [*notes, note], "of the last stage, learnt with the thresholds"
    return Naming(
        route=named,
        resolved=str(resolved),
        why=why if temperature is None else "as given",
        shadows=bool(store.adapters.versions(task, name)),
        notes=tuple(notes),
    )


def _check_no_temperature(temperature: float | None) -> None:
    if temperature is not None:
        raise InvalidInput(
            "the temperatures of a cascade, one for each stage, are learnt with its thresholds",
            field="temperature",
            remedy="leave it out, and learn them with `corolla routes calibrate`",
        )


def _with_thresholds(store: Store, named: NamedRoute) -> tuple[NamedRoute, str]:
    """A cascade with the thresholds that its name has for the very same members; and what to know of them."""
    before = None
    with suppress(NotFound, Corrupt):
        before = store.routes.get(named.task, named.name)
    same = before is not None and (before.route, before.versions) == (named.route, named.versions)
    if before is None or before.cascade is None or not same:
        return named, f"thresholds: none yet, so requests are refused until {calibrate_command(named)}"
    kept = named.model_copy(update={"cascade": before.cascade, "temperature": before.temperature})
    return kept, "thresholds: as learnt before for the same members"


def pinned(route: Route, resolved: ResolvedRoute, *, follow: bool = False) -> Route:
    """The route with a version in the place of every `latest`; other aliases stay.

    An alpha over all blocks is a plain one.

    Args:
        follow: Whether `latest` stays, too.
    """
    now = (term for member in resolved.members for term in member.terms)
    return route.with_terms(
        Term(alpha=term.alpha, adapter=_pinned(written.adapter, term, follow))
        for written, term in zip(route.terms, now, strict=True)
    )


def _pinned(ref: AdapterRef, now: ResolvedTerm, follow: bool) -> AdapterRef:
    if follow or now.manifest is None or not ref.follows_latest:
        return ref
    return replace(ref, version=now.manifest.version, alias=None)


def _notes(route: Route, resolved: ResolvedRoute, follow: bool) -> Iterator[str]:
    """What moves a route that is put, one line for each kind of name in it."""
    terms = (term for member in resolved.members for term in member.terms)
    now = dict(zip((term.adapter for term in route.terms), terms, strict=True))
    latest = {str(ref): term for ref, term in now.items() if ref.follows_latest}
    moving = ", ".join(latest)
    if follow and latest:
        yield f"follows {moving}: the next registered version answers, also one that is just being tried"
    elif follow:
        yield "--follow changes nothing: every adapter has a version or an alias"
    elif latest:
        versions_now = ", ".join(f"{name} as {term.label}" for name, term in latest.items())
        yield f"pinned: {versions_now}; later versions do not move it (--follow would)"
    aliases = [str(ref) for ref in now if ref.alias is not None and not ref.follows_latest]
    if aliases:
        yield f"stays an alias: {', '.join(aliases)}; `corolla adapters alias` moves it"
