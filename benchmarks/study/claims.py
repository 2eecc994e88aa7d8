"""The study's claims against the figures of three evaluations.

Each claim has a rule that was fixed before any figure was seen, and a verdict: it holds, it does not, or the
images are too few to tell.

Claims: Mai et al., arXiv 2409.16434; that of eight seeds of LoRA: LoRA-Ensemble, arXiv 2405.14438.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.study.plan import NOT_PETL, ONE, Plan, name_of
from training.measure.document import Evaluation, Pair

HOLDS, DOES_NOT, CANNOT_TELL = "holds", "does not hold", "cannot be told"
_FEW_POINTS = 0.02


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, the rule that it is judged by, what was found, and the verdict."""

    claim: str
    rule: str
    found: str
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Accuracies of one method's seeds on one set."""

    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.accuracies)

    @property
    def deviation(self) -> float:
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.deviation:.1f}"


@dataclass(frozen=True, kw_only=True)
class Study:
    """The three documents of a study.

    Attributes:
        methods: Every method's first adapter, the base and ensembles, at several alphas.
        seeds: Every method's seeds.
        eight: Eight methods and eight seeds of one, both with heads from the probe and random ones.
    """

    plan: Plan
    methods: Evaluation
    seeds: Evaluation
    eight: Evaluation

    @property
    def here(self) -> str:
        """The set that is in distribution."""
        return self.methods.reference.name

    @property
    def shifted(self) -> list[str]:
        return [one.name for one in self.methods.sets if one.shifted]

    def spread(self, method: str, on: str) -> Spread:
        names = [name_of(method, seed) for seed in range(self.plan.seeds)]
        return Spread(accuracies=tuple(self._accuracy(self.seeds, name, on) for name in names))

    def shifted_spread(self, method: str) -> Spread:
        """Of the mean over the shifted sets, seed by seed."""
        of_sets = [self.spread(method, on).accuracies for on in self.shifted]
        return Spread(accuracies=tuple(statistics.fmean(several) for several in zip(*of_sets, strict=True)))

    def label(self, document: Evaluation, members: Sequence[str]) -> str:
        """The label of an ensemble in a document, by the names of its members."""
        for route in document.routes:
            if [_name(member) for member in route.members] == list(members):
                return route.label
        raise KeyError(members)

    def _accuracy(self, document: Evaluation, name: str, on: str) -> float:
        return document.result(self.label(document, [name]), on).accuracy


def claims(study: Study) -> list[Claim]:
    """All of them, in the order of the paper."""
    return [
        _similar(study),
        _different_mistakes(study),
        _ensemble_over_best(study),
        _ensemble_over_seeds(study, "probe"),
        _ensemble_over_seeds(study, "random"),
        _robust(study),
        _interpolation(study),
    ]


def _similar(study: Study) -> Claim:
    means = {method: study.spread(method, study.here).mean for method in study.plan.petl}
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    spread = means[best] - means[worst]
    seeds = statistics.fmean(study.spread(method, study.here).deviation for method in study.plan.petl)
    linear, full = (study.spread(method, study.here).mean for method in NOT_PETL)
    return Claim(
        claim="Tuned fairly, PETL methods reach similar accuracy",
        rule="the best and the worst of their means over seeds are at most 2 points apart",
        found=f"{_points(spread)} points between {best} ({_percent(means[best])}) and {worst} "
        f"({_percent(means[worst])}), where the seeds of one method deviate by {_points(seeds)}; "
        f"linear {_percent(linear)}, full {_percent(full)}",
        verdict=HOLDS if spread <= _FEW_POINTS else DOES_NOT,
    )


def _different_mistakes(study: Study) -> Claim:
    found, lower = [], []
    for on in (study.here, *study.shifted):
        between = [p for p in _pairs(study.seeds, on) if _same_seed(p) and not _same_method(p) and _petl(p)]
        within = [p for p in _pairs(study.seeds, on) if _same_method(p) and _petl(p)]
        across, of_one = (_overlap(pairs) for pairs in (between, within))
        lower.append(across < of_one)
        agree, agree_one = (statistics.fmean(p.agreement for p in pairs) for pairs in (between, within))
        found.append(
            f"{on}: {_percent(across)} of the errors shared ({_percent(of_one)} by seeds of one method), "
            f"same answer {_percent(agree)} ({_percent(agree_one)})"
        )
    return Claim(
        claim="At similar accuracy the methods err on different images",
        rule="on every set, two methods share fewer of their errors than two seeds of one method",
        found="; ".join(found),
        verdict=HOLDS if all(lower) else DOES_NOT,
    )


def _ensemble_over_best(study: Study) -> Claim:
    label = study.label(study.methods, [name_of(method, 0) for method in study.plan.petl])
    found, verdicts = [], []
    for one in study.methods.ensembles:
        if one.route != label:
            continue
        gain = one.over_selected
        verdicts.append(HOLDS if gain.low > 0 else DOES_NOT if gain.high < 0 else CANNOT_TELL)
        found.append(
            f"{one.set}: {_percent(one.mean)}, best chosen member {one.selected_member} "
            f"{_percent(one.selected)}, gain {_interval(gain.difference, gain.low, gain.high)}, "
            f"McNemar p {gain.mcnemar_p:.2g}; over the worst {_points(one.mean - one.worst)}"
        )
    return Claim(
        claim="The mean of the logits of all PETL methods beats the best single method",
        rule="on every set, the 95 % interval of the gain over the member that is best in distribution is "
        "above 0",
        found="; ".join(found),
        verdict=_of_all(verdicts),
    )


def _ensemble_over_seeds(study: Study, head: str) -> Claim:
    eight = study.label(study.eight, [name_of(method, 0, head) for method in study.plan.eight])
    seeds = study.label(study.eight, [name_of(ONE, seed, head) for seed in range(study.plan.members)])
    found, verdicts = [], []
    for one in study.eight.comparisons:
        if {one.a, one.b} != {eight, seeds}:
            continue
        sign = 1 if one.a == eight else -1
        low, high = sorted((sign * one.low, sign * one.high))
        a, b = study.eight.result(eight, one.set), study.eight.result(seeds, one.set)
        verdicts.append(HOLDS if low > 0 else DOES_NOT if high < 0 else CANNOT_TELL)
        found.append(
            f"{one.set}: {_percent(a.accuracy)} against {_percent(b.accuracy)}, "
            f"{_interval(sign * one.difference, low, high)}, McNemar p {one.mcnemar_p:.2g}, "
            f"ECE {a.raw.ece:.3f} against {b.raw.ece:.3f}"
        )
    return Claim(
        claim=f"Eight methods beat eight seeds of {ONE} at equal cost, heads from "
        + ("the probe" if head == "probe" else "random numbers"),
        rule="the 95 % interval of the difference in accuracy is above 0 on every set",
        found="; ".join(found),
        verdict=_of_all(verdicts),
    )


def _robust(study: Study) -> Claim:
    full = study.shifted_spread("full")
    means = {method: study.shifted_spread(method) for method in study.plan.petl}
    above = [method for method in study.plan.petl if min(means[method].accuracies) > max(full.accuracies)]
    below = [method for method in study.plan.petl if max(means[method].accuracies) < min(full.accuracies)]
    mean = statistics.fmean(one.mean for one in means.values())
    return Claim(
        claim="PETL keeps more accuracy under shift than full fine-tuning",
        rule="for at least two thirds of the methods, the mean of the shifted sets is above full's, every "
        "seed above every seed",
        found=f"full {full}, PETL methods {_percent(mean)} in the mean; every seed above all of full's: "
        f"{_list(above)}; below: {_list(below)}",
        verdict=HOLDS if 3 * len(above) >= 2 * len(study.plan.petl) else DOES_NOT,
    )


def _interpolation(study: Study) -> Claim:
    found, gains = [], []
    for curve in study.methods.curves:
        if curve.method == "linear" or not curve.accuracy:
            continue
        at = dict(zip(curve.alphas, range(len(curve.alphas)), strict=True))
        half, whole = at[0.5], at[1.0]
        here = curve.accuracy[study.here]
        there = [curve.accuracy[on] for on in study.shifted]
        moved = statistics.fmean(one[half] - one[whole] for one in there)
        gains.append(moved)
        found.append(f"{curve.method} {_signed(here[half] - here[whole])} here, {_signed(moved)} shifted")
    up = sum(gain > 0 for gain in gains)
    return Claim(
        claim="Interpolating the weights (WiSE, alpha 0.5) raises shifted accuracy",
        rule="it does in the mean of the shifted sets for at least two thirds of the adapters",
        found="; ".join(found),
        verdict=HOLDS if 3 * up >= 2 * len(gains) else DOES_NOT,
    )


def _pairs(document: Evaluation, on: str) -> Iterable[Pair]:
    return [pair for pair in document.pairs if pair.set == on]


def _method_seed(label: str) -> tuple[str, str]:
    method, _, seed = _name(label).partition("-seed")
    return method, seed


def _same_method(pair: Pair) -> bool:
    return _method_seed(pair.a)[0] == _method_seed(pair.b)[0]


def _same_seed(pair: Pair) -> bool:
    return _method_seed(pair.a)[1] == _method_seed(pair.b)[1]


def _petl(pair: Pair) -> bool:
    others = {name_of(method, 0) for method in NOT_PETL}
    return not others & {_method_seed(pair.a)[0], _method_seed(pair.b)[0]}


def _overlap(pairs: Sequence[Pair]) -> float:
    """Of all errors of all pairs, the share that both make."""
    both = sum(pair.both_wrong for pair in pairs)
    either = sum(pair.both_wrong + pair.only_a + pair.only_b for pair in pairs)
    return both / either if either else 1.0


def _name(label: str) -> str:
    return label.partition(":")[0]


def _of_all(verdicts: Sequence[str]) -> str:
    if len(set(verdicts)) == 1:
        return verdicts[0]
    counts = [f"{verdict} on {verdicts.count(verdict)}" for verdict in dict.fromkeys(verdicts)]
    return ", ".join(counts)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:.1f}"


def _signed(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _interval(difference: float, low: float, high: float) -> str:
    return f"{_signed(difference)} ({_signed(low)} to {_signed(high)})"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
