"""What the study says (arXiv 2409.16434), and whether it holds on this task."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from scipy.stats import false_discovery_control, fisher_exact

from training.measure.document import EvaluatedRoute
from training.measure.figures import Comparison, Curve
from training.study.report.contents import Cell, Table
from training.study.report.correlation import FEWEST, rank_correlation
from training.study.report.material import Material, adjusted, control_of
from training.study.report.tables.agreement import agreement_in_words
from training.study.report.words import (
    ALPHA,
    counted,
    decimal,
    evidence,
    p_value,
    percent,
    points,
    signed,
    told,
)

HOLDS, PARTLY, FAILS, OPEN = "holds here", "holds in part", "does not hold here", "cannot be told"
ABSENT = "was not measured"
SIMILAR = 0.02
"""Accuracies are similar where the whole interval of their difference lies within so much of zero."""
_VERDICTS = {1: HOLDS, 0: OPEN, -1: FAILS}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One claim of the study on this task."""

    claim: str
    verdict: str
    because: str


def claims_table(material: Material) -> Table:
    """All claims."""
    rows = tuple(
        (
            Cell(text=one.claim),
            Cell(text=one.verdict, strong=one.verdict in (HOLDS, FAILS)),
            Cell(text=one.because),
        )
        for one in verdicts(material)
    )
    return Table(
        title="The study's claims on this task",
        caption="Tests are McNemar's on the same images, adjusted for the number of comparisons of each "
        "claim (Benjamini and Hochberg); the level is 5 %. “Cannot be told” is not “equal”: these images "
        "are too few to tell. Accuracies are similar only where the 95 % interval of every difference lies "
        f"within {points(SIMILAR)} of zero.",
        columns=("claim", "on this task", "evidence"),
        rows=rows,
    )


def verdicts(material: Material) -> list[Verdict]:
    """Every claim, in the order of the study."""
    return [
        _similar(material),
        _against(material, "linear", "With few images, PETL beats training the head alone."),
        _against(material, "full", "With few images, PETL beats full fine-tuning."),
        _size(material),
        _mistakes(material),
        _ensembles(material),
        _diversity(material),
        _shift(material),
        _wise(material),
    ]


def _similar(material: Material) -> Verdict:
    claim = "Tuned fairly, PETL methods reach similar accuracy."
    pairs = ((a, b) for a, b in combinations(material.petl, 2) if a.method != b.method)
    compared = list(_between(material, pairs))
    if not compared:
        return Verdict(claim=claim, verdict=ABSENT, because="It needs adapters of two PETL methods.")
    close = sum(one.low >= -SIMILAR and one.high <= SIMILAR for one in compared)
    apart = sum(p < ALPHA for _, p in adjusted(compared))
    results = material.measured(material.petl)
    spread = results[0].accuracy - results[-1].accuracy
    verdict = HOLDS if close == len(compared) else FAILS if apart else OPEN
    return Verdict(
        claim=claim,
        verdict=verdict,
        because=f"From the best to the worst of {len(results)} it is {points(spread)} "
        f"({percent(results[0].accuracy)} to {percent(results[-1].accuracy)}); {apart} of {len(compared)} "
        f"pairs differ by more than chance, and {close} {'is' if close == 1 else 'are'} shown to be less "
        f"than {points(SIMILAR)} apart.",
    )


def _against(material: Material, method: str, claim: str) -> Verdict:
    others = [r for r in material.adapters if r.method == method]
    name = method
    if method == "linear" and not others:  # the base head is a head alone, too
        others, name = [r for r in material.models if r.kind == "base"], "the base head"
    compared = list(_between(material, ((a, b) for a in material.petl for b in others)))
    if not compared:
        return Verdict(claim=claim, verdict=ABSENT, because=f"It needs a PETL adapter and one of {method}.")
    return Verdict(claim=claim, verdict=_of_counts(compared), because=_counted(compared, name))


def _of_counts(compared: Sequence[Comparison]) -> str:
    """From how many of them a is better, and how many worse, than b."""
    return verdict_of(*_counts(compared), len(compared))


def verdict_of(better: int, worse: int, of: int) -> str:
    """A claim that something is better, by in how many of the tests it is."""
    if better and not worse:
        return HOLDS if 2 * better >= of else PARTLY
    if worse and not better:
        return FAILS
    return PARTLY if better else OPEN


def _counts(compared: Sequence[Comparison]) -> tuple[int, int]:
    tested = adjusted(compared)
    better = sum(p < ALPHA and one.difference > 0 for one, p in tested)
    return better, sum(p < ALPHA and one.difference < 0 for one, p in tested)


def _counted(compared: Sequence[Comparison], other: str) -> str:
    better, worse = _counts(compared)
    mean = sum(one.difference for one in compared) / len(compared)
    rest = len(compared) - better - worse
    return (
        f"Of {counted(len(compared), 'comparison')} with {other}, PETL is better in {better} and worse in "
        f"{worse}; {rest} cannot be told. In the mean it is {signed(mean)} points."
    )


def _size(material: Material) -> Verdict:
    claim = "Near the pre-training data few parameters suffice; far from it larger modules gain."
    results = material.measured(material.petl)
    sizes = [material.routes[one.route].parameters for one in results]
    if len(set(sizes)) < FEWEST:
        return Verdict(claim=claim, verdict=ABSENT, because="It needs PETL adapters of five sizes or more.")
    found = rank_correlation(sizes, [one.accuracy for one in results])
    related = found.p < ALPHA
    trend = f"{'Larger' if found.rank > 0 else 'Smaller'} adapters are more accurate"
    return Verdict(
        claim=claim,
        verdict="larger gain" if related and found.rank > 0 else "few suffice" if related else OPEN,
        because=f"{trend if related else 'Size and accuracy are not measurably related'} among {len(sizes)} "
        f"(Spearman's rank correlation {decimal(found.rank)}, {p_value(found.p)}).",
    )


def _mistakes(material: Material) -> Verdict:
    claim = "Methods that are equally accurate make different mistakes."
    said = agreement_in_words(material)
    if not said:
        return Verdict(claim=claim, verdict=ABSENT, because="It needs two models.")
    return Verdict(claim=claim, verdict="see the figures", because=" ".join(said))


def _ensembles(material: Material) -> Verdict:
    claim = "Ensembles of methods beat the best single method."
    here = [one for one in material.evaluation.ensembles if one.set == material.reference.name]
    if not here:
        return Verdict(claim=claim, verdict=ABSENT, because="No ensemble was measured.")
    largest = max(here, key=lambda one: len(one.members))
    gain = largest.over_best
    verdict = _VERDICTS[told(gain)]
    return Verdict(
        claim=claim,
        verdict=verdict,
        because=f"{material.short(largest.route)} ({len(largest.members)} members): "
        f"{signed(gain.difference)} points over {material.short(largest.best_member)}, its best member on "
        f"these images ({evidence(gain)}).",
    )


def _diversity(material: Material) -> Verdict:
    claim = "The gain is due to different methods (the study has no control)."
    here = [
        one for one in material.evaluation.ensembles if one.set == material.reference.name and one.controls
    ]
    if not here:
        return Verdict(
            claim=claim,
            verdict=ABSENT,
            because="It needs an ensemble and adapters of one method that differ in their seed alone.",
        )
    largest = max(here, key=lambda one: one.controls[0].size)
    control = control_of(largest)
    assert control is not None, "it was chosen for having one"
    over = control.over_control
    verdict = _VERDICTS[told(over)]
    return Verdict(
        claim=claim,
        verdict=verdict,
        because=f"{control.size} members of {material.short(largest.route)} reach "
        f"{percent(control.ensemble)}, {control.size} seeds of {control.method} {percent(control.mean)}: "
        f"{signed(over.difference)} points ({evidence(over)}).",
    )


def _shift(material: Material) -> Verdict:
    claim = "Under a shift PETL keeps more accuracy than full fine-tuning."
    full = [route for route in material.models if route.method == "full"]
    compared = [
        found
        for one in material.shifted
        for found in _between(material, ((a, b) for a in material.petl for b in full), one.name)
    ]
    if not compared:
        return Verdict(
            claim=claim, verdict=ABSENT, because="It needs a shifted set, a PETL adapter and one of full."
        )
    sets = counted(len(material.shifted), "shifted set")
    return Verdict(
        claim=claim, verdict=_of_counts(compared), because=f"On {sets}: {_counted(compared, 'full')}"
    )


def _wise(material: Material) -> Verdict:
    claim = "Weight interpolation (WiSE) gives shifted accuracy back."
    tests = [one for curve in material.evaluation.curves for one in _halves(material, curve)]
    if not tests:
        return Verdict(
            claim=claim,
            verdict=ABSENT,
            because="It needs a shifted set, and adapters at several alphas (--alphas).",
        )
    values = false_discovery_control([p for _, p in tests])
    better = sum(p < ALPHA and gain > 0 for (gain, _), p in zip(tests, values, strict=True))
    worse = sum(p < ALPHA and gain < 0 for (gain, _), p in zip(tests, values, strict=True))
    mean = sum(gain for gain, _ in tests) / len(tests)
    here = material.reference.name
    own = [
        curve.accuracy[here][_half(curve)] - curve.accuracy[here][-1] for curve in material.evaluation.curves
    ]
    return Verdict(
        claim=claim,
        verdict=verdict_of(better, worse, len(tests)),
        because=f"Half way between frozen and trained, of {counted(len(tests), 'accuracy', 'accuracies')} "
        f"on shifted sets {better} are higher than at alpha 1 and {worse} lower; "
        f"{len(tests) - better - worse} cannot be told (Fisher's exact test, unpaired and so strict). In "
        f"the mean it is {signed(mean)} points there and {signed(sum(own) / len(own))} on {here}.",
    )


def _half(curve: Curve) -> int:
    """The place of the alpha that is nearest to 0.5: no image chooses it."""
    return min(range(len(curve.alphas)), key=lambda place: abs(curve.alphas[place] - 0.5))


def _halves(material: Material, curve: Curve) -> Iterator[tuple[float, float]]:
    """What half way changes on each shifted set, and the p value of it."""
    for one in material.shifted:
        along = curve.accuracy.get(one.name)
        if along is not None:
            right = [round(share * one.images) for share in (along[_half(curve)], along[-1])]
            table = [[count, one.images - count] for count in right]
            yield along[_half(curve)] - along[-1], float(fisher_exact(table).pvalue)


def _between(
    material: Material, pairs: Iterable[tuple[EvaluatedRoute, EvaluatedRoute]], on: str | None = None
) -> Iterable[Comparison]:
    for a, b in pairs:
        found = material.comparison(a.label, b.label, on)
        if found is not None:
            yield found
