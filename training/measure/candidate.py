"""A route that is to be measured, by its name. Imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import JsonValue

from model_store.format.records import Cascade, Manifest
from model_store.resolution.versions import ResolvedRoute
from petl_vit.combine import Combine
from training.measure.document import Kind


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A route, its name and the temperature that it answers with.

    Attributes:
        cascade: The thresholds of a cascade; None where all its members answer, and of any other route.
        name: Of a named route, or what it is called in tables; empty is the text of the route.
        seeds_of: Equal for adapters that differ in nothing but their seed; empty where that is not known.
    """

    route: ResolvedRoute
    temperature: float = 1.0
    cascade: Cascade | None = None
    name: str = ""
    seeds_of: str = ""

    @property
    def label(self) -> str:
        return self.name or str(self.route)

    @property
    def members(self) -> tuple[str, ...]:
        """The models in weight space with versions; with tasks where one is of another than the answer."""
        task = self.route.task.spec.name
        foreign = any(member.task.spec.name != task for member in self.route.members)
        return tuple(member.text(with_task=foreign) for member in self.route.members)

    @property
    def several(self) -> bool:
        """Whether it has several members."""
        return len(self.route.members) > 1

    @property
    def kind(self) -> Kind:
        if self.several:
            return "cascade" if self.route.combine is Combine.CASCADE else "ensemble"
        (member,) = self.route.members
        if len(member.terms) > 1:
            return "sum"
        if member.terms[0].manifest is None:
            return "base"
        return "adapter" if member.terms[0].alpha == 1 else "alpha"

    @property
    def adapter(self) -> Manifest | None:
        """The one adapter that it is, at any alpha."""
        terms = [term for member in self.route.members for term in member.terms]
        return terms[0].manifest if len(terms) == 1 else None

    @property
    def seed(self) -> JsonValue:
        """Of its training; None where that is not recorded, or it is not one adapter as it was trained."""
        return self.adapter.training.get("seed") if self.kind == "adapter" and self.adapter else None


def trained_models(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The base and the adapters as they were trained, each once, whatever it is called."""
    found = dict[str, Candidate]()
    for one in candidates:
        if one.kind in ("base", "adapter"):
            found.setdefault(one.route.members[0].terms[0].digest, one)
    return list(found.values())


def seed_groups(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    """Adapters that differ in nothing but their seed, one for each seed; groups of two or more."""
    groups = dict[str, dict[str, Candidate]]()
    for one in trained_models(candidates):
        if one.seeds_of and one.seed is not None:
            groups.setdefault(one.seeds_of, {}).setdefault(str(one.seed), one)
    return [list(group.values()) for group in groups.values() if len(group) > 1]
