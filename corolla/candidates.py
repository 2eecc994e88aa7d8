"""The routes of an evaluation: what a user named, or what people expect where nothing is named.

Imports no torch.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pydantic import JsonValue

from model_store.format.canonical import canonical_json
from model_store.format.records import Manifest
from model_store.names import BASE, LATEST
from model_store.resolution.answering import answering, uncalibrated
from model_store.resolution.versions import ResolvedRoute, resolve
from model_store.routes.algebra import MAX_ENTRIES, AdapterRef, Entry, Model, Route, Term
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit.combine import Combine
from petl_vit.errors import InvalidInput, NotFound
from training.measure.candidate import Candidate, seed_groups
from training.run.recipe import Recipe

_RECIPE = sorted(set(Recipe.model_fields) - {"seed", "method", "config"})


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """Finds routes of one task on one backbone.

    Attributes:
        backbone: Digest.
        note: Told what people should know of the routes.
    """

    store: Store
    task: str
    backbone: str
    extrapolate: bool
    note: Callable[[str], None]

    def chosen(self, routes: Sequence[str], members_of: Sequence[str] = ()) -> list[Candidate]:
        """Routes by their text or name, then the members of others; of neither, all that the task has.

        Raises:
            NotFound: A route or the task does not exist, or the task has no adapter on this backbone.
            InvalidInput: A route cannot be answered; names it.
        """
        if not routes and not members_of:
            return self.everything()
        found = [self._named(text) for text in routes]
        for text in members_of:
            whole = self._named(text).route
            found += [self._member(whole, place) for place in range(len(whole.members))]
        return found

    def everything(self) -> list[Candidate]:
        """The base, every adapter at `latest`, and mean ensembles: of one of each kind, of seeds, of all."""
        adapters = [self._one(manifest) for manifest in self._latest()]
        return [
            self._resolved(Route(entries=(_entry(AdapterRef(name=BASE)),))),
            *adapters,
            *self._joined(adapters),
        ]

    def _latest(self) -> list[Manifest]:
        others, found = list[str](), list[Manifest]()
        for adapter in self.store.adapters.list(self.task):
            version = self.store.adapters.version_of(self.task, adapter.name, LATEST)
            if version is None:
                continue
            manifest = self.store.adapters.manifest(self.task, adapter.name, version)
            (found if manifest.backbone_digest == self.backbone else others).append(manifest)  # type: ignore[arg-type]
        if others:
            self.note(f"of another backbone, so not measured: {', '.join(map(str, others))}")
        if not found:
            self.store.tasks.get(self.task, self.backbone)
            raise NotFound(
                f"task {self.task} has no adapter to measure",
                field="route",
                remedy="train some with `corolla train`, or name the route `base`",
            )
        return found

    def _joined(self, adapters: Sequence[Candidate]) -> Iterator[Candidate]:
        """Ensembles by mean logits that tell whether methods complement each other."""
        groups = seed_groups(adapters)
        others = {one.label for group in groups for one in group[1:]}
        different = [one for one in adapters if one.label not in others]
        if groups and len(different) > 1:
            yield from self._mean(different, "one of each")
        methods = [_method(group[0]) for group in groups]
        for group, method in zip(groups, methods, strict=True):
            yield from self._mean(
                group, f"seeds of {method if methods.count(method) == 1 else group[0].label}"
            )
        if len(adapters) not in map(len, groups):
            yield from self._mean(adapters, "all")

    def _mean(self, adapters: Sequence[Candidate], what: str) -> Iterator[Candidate]:
        name = f"mean of {len(adapters)}: {what}"
        if len(adapters) > MAX_ENTRIES:
            return self.note(f"{name} is left out: a route has at most {MAX_ENTRIES} members")
        if len(adapters) < 2:
            return None
        entries = tuple(_entry(_exact(one.adapter)) for one in adapters if one.adapter is not None)
        try:
            yield replace(self._resolved(Route(entries=entries)), name=name)
        except InvalidInput as error:  # tasks of several versions may prepare images differently
            self.note(f"{name} is left out: {error.problem}")

    def _one(self, manifest: Manifest) -> Candidate:
        return self._resolved(Route(entries=(_entry(_exact(manifest)),)))

    def _named(self, text: str) -> Candidate:
        """The versions that a named route of that name, else the text as a route, means."""
        route = parse_route(text)
        named = self.store.routes.meant_by(self.task, route)
        if named is None:
            if route.combine is Combine.CASCADE:
                raise uncalibrated(route)
            return self._resolved(route)
        now = answering(self.store, named, self.backbone)
        if now.note:
            self.note(f"route {named.name}: {now.note}")
        return Candidate(
            route=now.resolved,
            temperature=now.temperature,
            cascade=now.cascade,
            name=named.name,
            seeds_of=_seeds_of(now.resolved),
        )

    def _resolved(self, route: Route) -> Candidate:
        found = resolve(
            route,
            task=self.task,
            store=self.store,
            backbone_digest=self.backbone,
            extrapolate=self.extrapolate,
        )
        return Candidate(route=found, seeds_of=_seeds_of(found))

    def _member(self, route: ResolvedRoute, place: int) -> Candidate:
        """As naming it alone would find it: without what a cascade adds to a route."""
        members = (replace(route.members[place], weight=1.0),)
        alone = replace(route, members=members, combine=Combine.MEAN, loss=None)
        return Candidate(route=alone, seeds_of=_seeds_of(alone))


def _method(one: Candidate) -> str:
    return "" if one.adapter is None else one.adapter.method


def _entry(adapter: AdapterRef) -> Entry:
    return Entry(model=Model(terms=(Term(adapter=adapter),)))


def _exact(manifest: Manifest) -> AdapterRef:
    return AdapterRef(name=manifest.name, version=manifest.version)


def _seeds_of(route: ResolvedRoute) -> str:
    """Equal for adapters of one method, config, recipe and training images that differ in their seed."""
    terms = [term for member in route.members for term in member.terms]
    manifest = terms[0].manifest
    if len(terms) > 1 or terms[0].alpha != 1 or manifest is None or "seed" not in manifest.training:
        return ""
    training = manifest.training
    identity: list[JsonValue] = [
        manifest.method,
        manifest.config,
        manifest.task_digest,
        [training.get(name) for name in (*_RECIPE, "data_digest")],
    ]
    return hashlib.sha256(canonical_json(identity)).hexdigest()[:16]
