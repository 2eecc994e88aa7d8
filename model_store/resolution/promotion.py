"""What a new version or a moved alias changes among the named routes, what it leaves, and how to promote."""

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from model_store.format.records import Manifest, NamedRoute
from model_store.names import LATEST, AdapterId
from model_store.resolution.answering import Answering, answering
from model_store.routes.algebra import AdapterRef
from model_store.store import Store
from petl_vit.combine import Combine
from petl_vit.errors import CorollaError


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A route or an alias beside a version that has just been registered, or an alias that has just moved.

    Attributes:
        name: `task/route` or `task/adapter@alias`.
        moves: Whether it answers by that version now.
        says: The same in words.
        promote: The command that makes it answer by that version; empty where it does.
    """

    name: str
    moves: bool
    says: str
    promote: str = ""

    @property
    def line(self) -> str:
        return f"{self.says}; to promote: {self.promote}" if self.promote else self.says

    def document(self) -> dict[str, str | bool]:
        return asdict(self)


def after_registration(store: Store, registered: Sequence[Manifest]) -> list[Standing]:
    """What becomes of the aliases and routes that name the adapters of versions just registered."""
    new = {AdapterId(manifest.task, manifest.name): manifest.version for manifest in registered}
    aliases = {adapter: store.adapters.aliases(*adapter) for adapter in new}
    standings = []
    for adapter, version in new.items():
        standings += [
            _alias(adapter, alias, at, version)
            for alias, at in sorted(aliases[adapter].items())
            if alias != LATEST and at != version
        ]
    for route, refs in _routes_of(store, new.keys()):
        if any(ref.follows_latest and aliases[home].get(LATEST) == new[home] for home, ref in refs):
            standings.append(_moved(store, route))
        elif pinned := [str(ref) for home, ref in refs if ref.version not in (None, new[home])]:
            standings.append(_pinned(route, pinned, new))
        elif held := [str(ref) for _, ref in refs if ref.version is None]:
            says = f"route {_name(route)} stays on {', '.join(held)}, an alias"
            standings.append(Standing(name=_name(route), moves=False, says=says))
    return standings


def after_move(store: Store, task: str, adapter: str, alias: str) -> list[Standing]:
    """The named routes that an alias which has just moved changes."""
    return [
        _moved(store, route)
        for route, refs in _routes_of(store, [AdapterId(task, adapter)])
        if any((ref.alias or LATEST) == alias and ref.version is None for _, ref in refs)
    ]


def _routes_of(
    store: Store, adapters: Collection[AdapterId]
) -> Iterator[tuple[NamedRoute, list[tuple[AdapterId, AdapterRef]]]]:
    """The named routes of any task that name one of the adapters, each with its names for them."""
    for home, name in store.routes.names():
        with suppress(CorollaError):  # a damaged one answers nothing
            route = store.routes.get(home, name)
            refs = [(AdapterId(ref.task or home, ref.name), ref) for ref in route.parsed().adapters]
            if named := [(adapter, ref) for adapter, ref in refs if adapter in adapters]:
                yield route, named


def _alias(adapter: AdapterId, alias: str, at: int, version: int) -> Standing:
    return Standing(
        name=f"{adapter}@{alias}",
        moves=False,
        says=f"alias {adapter}@{alias} stays at version {at}",
        promote=f"corolla adapters alias {adapter} {alias} {version}",
    )


def _moved(store: Store, route: NamedRoute) -> Standing:
    try:
        now: Answering = answering(store, route)
        said = f"answers by {now.resolved}" + (f"; {now.note}" if now.note else "")
    except CorollaError as error:
        said = f"cannot be answered: {error.problem}"  # no remedy: it may name what is not the reader's
    return Standing(name=_name(route), moves=True, says=f"route {_name(route)} ({route.route}) {said}")


def _pinned(route: NamedRoute, pinned: Sequence[str], new: Mapping[AdapterId, int]) -> Standing:
    def at_new(ref: AdapterRef) -> AdapterRef:
        version = new.get(AdapterId(ref.task or route.task, ref.name))
        return ref if version is None or ref.version is None else replace(ref, version=version)

    parsed = route.parsed()
    terms = (replace(term, adapter=at_new(term.adapter)) for term in parsed.terms)
    text = shlex.quote(str(parsed.with_terms(terms)))
    options = f"--task {route.task}{' --extrapolate' if route.extrapolate else ''}"
    again = f"put {route.name} {text}"
    if parsed.combine is Combine.CASCADE:  # whose thresholds are for the old versions
        again = f"calibrate {text} --as {route.name} --data IMAGES"
    return Standing(
        name=_name(route),
        moves=False,
        says=f"route {_name(route)} stays on {', '.join(pinned)}, pinned",
        promote=f"corolla routes {again} {options}",
    )


def _name(route: NamedRoute) -> str:
    return f"{route.task}/{route.name}"
