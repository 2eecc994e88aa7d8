"""An evaluation as people read it: tables, and a sentence for each choice.

Many shifts of one set are shown as their mean, unless everything is asked for.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import fmean

import click

from corolla import tables
from corolla.class_table import best_on, class_table
from training.measure.document import Evaluation
from training.measure.figures import Choice, Difference, Result

_PAIRS = 10
"""Pairs that are listed unless all are asked for."""
_SHIFTS = 5
"""Shifts of a set that are listed one by one unless all are asked for."""
_LISTED = 6
_NO_CONTROL = (
    "no control: seeds of one method among the routes would tell whether methods matter, such as\n"
    "`corolla train lora --seed 1 --name lora-1 ...` beside lora"
)
_CHANCE = 0.05


def show(evaluation: Evaluation, *, full: bool) -> None:
    """Print an evaluation."""
    _results(evaluation, full)
    for line in _best(evaluation, full):
        click.echo(line)
    if full:
        click.echo()
        tables.print_table(class_table(evaluation))
    _pairs(evaluation, full)
    _ensembles(evaluation, full)
    _curves(evaluation, full)
    for line in _choices(evaluation, full):
        click.echo(line)


@dataclass(frozen=True, kw_only=True)
class _Column:
    """Sets that are shown as their mean; mostly one."""

    title: str
    sets: tuple[str, ...]

    def mean(self, of: Callable[[str], float]) -> float:
        return sum(map(of, self.sets)) / len(self.sets)


def _columns(evaluation: Evaluation, full: bool) -> list[_Column]:
    """Every set; the shifts of one that has many together."""
    found = list[_Column]()
    for plain in (one for one in evaluation.sets if one.shift is None):
        place = evaluation.sets.index(plain) + 1
        after = takewhile(lambda one: one.shift is not None, evaluation.sets[place:])
        shifted = tuple(one.name for one in after)
        found.append(_Column(title=plain.name, sets=(plain.name,)))
        if len(shifted) > _SHIFTS and not full:
            found.append(_Column(title=f"{plain.name}, {len(shifted)} shifts", sets=shifted))
        else:
            found += [_Column(title=name, sets=(name,)) for name in shifted]
    return found


def _results(evaluation: Evaluation, full: bool) -> None:
    several = any(len(one.member_accuracies) > 1 for one in evaluation.results)
    learnt = any(one.trained_on for one in evaluation.results)
    columns = ["route", "set", "images", "accuracy", "95 %", "ECE", *(["agreement"] if several else [])]
    columns += ["NLL", "Brier", "ECE fitted", "NLL fitted", "Brier fitted"] if full else []
    columns += ["confidence", "macro-F1"] if full else []
    columns += ["robustness", "parameters", "cost"] if full else []
    columns += ["trained on"] if learnt else []
    table = tables.table_of(*columns)
    images = {one.name: str(one.images) for one in evaluation.sets}
    found = {(one.route, one.set): one for one in evaluation.results}
    for route in evaluation.routes:
        for column in _columns(evaluation, full):
            results = [found[route.label, name] for name in column.sets]
            first = results[0]
            interval = f"{first.low:.3f}-{first.high:.3f}" if len(results) == 1 else ""
            cells = [route.label, column.title, images[first.set], _mean(one.accuracy for one in results)]
            cells += [interval, _mean(one.ece for one in results)]
            if several:
                ensemble = len(first.member_accuracies) > 1
                cells += [_mean(one.agreement for one in results) if ensemble else ""]
            cells += [*_more(first), f"{route.parameters:,}", f"{first.cost:.3g}"] if full else []
            cells += [str(first.trained_on)] if learnt else []
            table.add_row(*cells)
    tables.print_table(table)
    machine = evaluation.machine
    click.echo(f"computed in {machine.precision} on {machine.device}")


def _mean(values: Iterable[float]) -> str:
    return f"{fmean(values):.3f}"


def _more(one: Result) -> list[str]:
    """As it is served, at the fitted temperature, and the rest."""
    fitted = one.calibrated
    after = (None, None, None) if fitted is None else (fitted.ece, fitted.nll, fitted.brier)
    numbers = (one.nll, one.brier, *after, one.confidence, one.macro_f1)
    return [
        *("" if number is None else f"{number:.3f}" for number in numbers),
        _signed(one.effective_robustness),
    ]


def _best(evaluation: Evaluation, full: bool) -> Iterator[str]:
    """The best route of each set, and those that the set does not tell from it."""
    if len(evaluation.routes) < 2:
        return
    yield ""
    for on in (one.sets[0] for one in _columns(evaluation, full) if len(one.sets) == 1):
        best = best_on(evaluation, on)
        alike = [
            one.b if one.a == best.route else one.a
            for one in evaluation.comparisons
            if one.set == on and best.route in (one.a, one.b) and (one.mcnemar_p or 0) >= _CHANCE
        ]
        others = f"; not told from it (McNemar, p {_CHANCE:g} and more): {_listed(alike)}" if alike else ""
        yield f"best on {on}: {best.route} {best.accuracy:.3f}{others}"


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _LISTED} more" if len(labels) > _LISTED else ""
    return "; ".join(labels[:_LISTED]) + more


def _pairs(evaluation: Evaluation, full: bool) -> None:
    """Agreement of every two models on every set; with `full` also how their errors overlap."""
    first = [pair for pair in evaluation.pairs if pair.set == evaluation.reference.name]
    if not first:
        return
    columns = _columns(evaluation, full)
    found = {(pair.a, pair.b, pair.set): pair for pair in evaluation.pairs}
    table = tables.table_of(
        "pair",
        *(f"agree on {column.title}" for column in columns),
        *(["errors shared", "same error", "confident shared", "doubtful shared"] if full else []),
    )
    ranked = sorted(first, key=lambda pair: pair.agreement)
    for pair in ranked if full else ranked[:_PAIRS]:
        cells = [f"{pair.a} | {pair.b}"]
        for column in columns:
            cells += [_mean(found[pair.a, pair.b, name].agreement for name in column.sets)]
        if full:
            overlaps = (pair.error_overlap, pair.same_error, pair.confident_overlap, pair.doubtful_overlap)
            cells += ["" if one is None else f"{one:.3f}" for one in overlaps]
        table.add_row(*cells)
    click.echo()
    tables.print_table(table)
    if not full and len(ranked) > _PAIRS:
        click.echo(f"and {len(ranked) - _PAIRS} pairs that agree more often; --full lists them")


def _curves(evaluation: Evaluation, full: bool) -> None:
    """Accuracy by alpha; with `full` also effective robustness."""
    columns = _columns(evaluation, full)
    for one in evaluation.curves:
        table = tables.table_of(f"alpha of {one.adapter}", *(f"{alpha:g}" for alpha in one.alphas))
        for column in columns:
            by_alpha = zip(*(one.accuracy[name] for name in column.sets), strict=True)
            table.add_row(column.title, *map(_mean, by_alpha))
        for name, beyond in one.effective_robustness.items() if full else ():
            table.add_row(f"{name}, robustness", *(_signed(value) for value in beyond))
        click.echo()
        tables.print_table(table)
        for choice in one.choices:
            click.echo(f"alpha by {_RULES[choice.rule]}: {choice.chosen:g}{_cost(choice, columns)}")


_RULES = {
    "accuracy": "accuracy on the first set",
    "nll": "likelihood on the first set",
    "budget": "the smallest that loses at most a point there",
    "half": "the published default",
}


def _choices(evaluation: Evaluation, full: bool) -> Iterator[str]:
    if not evaluation.choices or len(evaluation.sets) < 2:
        return
    yield ""
    for choice in evaluation.choices:
        yield f"route by {_RULES[choice.rule]}: {choice.chosen}{_cost(choice, _columns(evaluation, full))}"


def _cost(choice: Choice, columns: Sequence[_Column]) -> str:
    """What a choice costs on the sets whose labels it did not see."""
    if len(columns) < 2:
        return ""
    costs = []
    for column in columns[1:]:
        cost = column.mean(choice.cost.__getitem__)
        best = f" (to {_text(choice.oracle[column.sets[0]])})" if len(column.sets) == 1 else ""
        costs += [f"{column.title} {100 * cost:.1f}{best}"] if cost > 0 else []
    return f"; points lost to the best choice: {', '.join(costs)}" if costs else "; the best elsewhere, too"


def _text(chosen: str | float) -> str:
    return chosen if isinstance(chosen, str) else f"{chosen:g}"


def _ensembles(evaluation: Evaluation, full: bool) -> None:
    """Ensembles against their best member and against as many seeds of one method."""
    if not evaluation.ensembles:
        return
    control = any(one.controls for one in evaluation.ensembles)
    table = tables.table_of(
        "ensemble",
        "set",
        *(["mean", "prob", "vote"] if full else []),
        "best member",
        "over the best, points",
        *(["mean member", "worst"] if full else []),
        *(["control", "over the control, points"] if control else []),
    )
    listed = {one.sets[0] for one in _columns(evaluation, full) if len(one.sets) == 1}
    for one in (one for one in evaluation.ensembles if one.set in listed):
        cells = [one.route, one.set]
        cells += [f"{accuracy:.3f}" for accuracy in (one.mean, one.prob, one.vote)] if full else []
        cells += [f"{one.best_member} {one.best:.3f}", _difference(one.over_best)]
        cells += [f"{one.mean_of_members:.3f}", f"{one.worst:.3f}"] if full else []
        for place, other in enumerate(one.controls if full else one.controls[:1]):
            seeds = [
                f"{other.size} seeds of {other.method} {other.mean:.3f}",
                _difference(other.over_control),
            ]
            table.add_row(*(cells if place == 0 else [""] * len(cells)), *seeds)
        if not one.controls:
            table.add_row(*cells, *(["", ""] if control else []))
    click.echo()
    tables.print_table(table)
    if not control:
        click.echo(_NO_CONTROL)


def _difference(one: Difference) -> str:
    p = "" if one.mcnemar_p is None else f", p {one.mcnemar_p:.2g}"
    return f"{100 * one.difference:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f}{p})"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"
