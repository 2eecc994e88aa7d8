"""A route that is to be measured, and what a document says of it."""

from dataclasses import dataclass

from model_store.format.records import Manifest
from model_store.resolution.versions import ResolvedRoute
from petl_vit import methods
from petl_vit.architecture import Architecture
from training.measure.arrays import Labels
from training.measure.document import EvaluatedRoute, Kind
from training.measure.logits import Logits, weights_of
from training.measure.scores import Scored, score


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A route, its name and the temperature that it answers with.

    Attributes:
        name: Of a named route; empty is the text of the route.
        seeds_of: Equal for adapters that differ in nothing but their seed; empty where that is not known.
    """

    route: ResolvedRoute
    temperature: float = 1.0
    name: str = ""
    seeds_of: str = ""

    @property
    def label(self) -> str:
        return self.name or str(self.route)

    @property
    def kind(self) -> Kind:
        if len(self.route.members) > 1:
            return "ensemble"
        (member,) = self.route.members
        if len(member.terms) > 1:
            return "sum"
        if member.terms[0].manifest is None:
            return "base"
        return "adapter" if member.terms[0].alpha == 1 else "alpha"

    @property
    def several(self) -> bool:
        """Whether it has several members."""
        return len(self.route.members) > 1

    @property
    def adapter(self) -> Manifest | None:
        """The one adapter that it is, at any alpha."""
        terms = [term for member in self.route.members for term in member.terms]
        return terms[0].manifest if len(terms) == 1 else None

    def scored(self, logits: Logits, labels: Labels, *, temperature: float | None = None) -> Scored:
        """What it says of images with these labels [n], by default at its own temperature."""
        return score(
            logits.stacked(self.route),
            labels,
            weights_of(self.route),
            rule=self.route.combine,
            temperature=self.temperature if temperature is None else temperature,
        )

    def described(self, arch: Architecture) -> EvaluatedRoute:
        """As a document has it.

        Args:
            arch: The backbone, for the number of parameters.
        """
        one = self.adapter
        training = one.training if one is not None else {}
        seed, head_init, seconds = (training.get(name) for name in ("seed", "head_init", "seconds"))
        trained = [term.manifest for term in self.route.terms() if term.manifest is not None]
        return EvaluatedRoute(
            label=self.label,
            text=str(self.route),
            kind=self.kind,
            method=one.method if one is not None else "linear" if self.kind == "base" else None,
            setting=_setting(one) if one is not None else "",
            members=tuple(map(str, self.route.members)),
            parameters=sum(_parameters(manifest, arch) for manifest in trained),
            cost=len(self.route.members),
            temperature=self.temperature,
            seed=seed if isinstance(seed, int) else None,
            head_init=head_init if isinstance(head_init, str) else None,
            seconds=float(seconds) if isinstance(seconds, int | float) else None,
            seeds_of=self.seeds_of,
        )


def _parameters(manifest: Manifest, arch: Architecture) -> int:
    return methods.get(manifest.method).configure(manifest.config).parameters(arch)


def _setting(manifest: Manifest) -> str:
    """The whole numbers of a method's settings, such as `rank=8`."""
    numbers = {
        name: value
        for name, value in manifest.config.items()
        if isinstance(value, int) and not isinstance(value, bool)
    }
    return ", ".join(f"{name}={value}" for name, value in numbers.items())
