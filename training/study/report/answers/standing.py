"""Which single models the reference set cannot tell from the best one."""

from dataclasses import dataclass
from statistics import median

from training.measure.document import EvaluatedRoute
from training.measure.figures import Comparison, Result
from training.study.report.material import Material, adjusted
from training.study.report.words import ALPHA


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A model beside the best one.

    Attributes:
        over: The accuracy of the best one less its own.
        p: McNemar's, adjusted for all comparisons with the best one.
    """

    route: EvaluatedRoute
    result: Result
    over: Comparison
    p: float

    @property
    def worse(self) -> bool:
        """Whether the best one is better by more than chance."""
        return self.p < ALPHA


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The best of the single models and all others, the most accurate first."""

    best: EvaluatedRoute
    result: Result
    rivals: tuple[Rival, ...]

    @property
    def tied(self) -> list[EvaluatedRoute]:
        """The best one, and those that cannot be told from it."""
        return [self.best, *(one.route for one in self.rivals if not one.worse)]

    @property
    def smallest(self) -> EvaluatedRoute:
        """Of the tied ones that with the fewest trained parameters."""
        return min(self.tied, key=lambda route: route.parameters)

    def rival(self, label: str) -> Rival | None:
        """None of the best one itself, and where a model was not compared."""
        return next((one for one in self.rivals if one.route.label == label), None)


def standing(material: Material) -> Standing | None:
    """None where no single model was measured."""
    results = material.measured(material.models)
    if not results:
        return None
    best = results[0].route
    compared = [found for one in results[1:] if (found := material.comparison(best, one.route)) is not None]
    rivals = tuple(
        Rival(route=material.routes[over.b], result=own, over=over, p=p)
        for over, p in adjusted(compared)
        if (own := material.result(over.b)) is not None
    )
    return Standing(best=material.routes[best], result=results[0], rivals=rivals)


def resolution(material: Material) -> float | None:
    """Half of the usual interval of a difference on the reference set: what is smaller may be chance."""
    widths = [
        (one.high - one.low) / 2
        for one in material.evaluation.comparisons
        if one.set == material.reference.name and one.high > one.low
    ]
    return median(widths) if widths else None
