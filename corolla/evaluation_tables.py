"""An evaluation as people read it: tables, and a sentence for each comparison."""

from collections.abc import Iterator, Sequence

import click

from corolla import tables
from training.measure.document import Evaluation
from training.measure.figures import Choice, Control, Curve, Difference, Ensemble, Result

_PAIRS = 10
"""Pairs that are listed unless all are asked for."""


def show(evaluation: Evaluation, *, full: bool) -> None:
    """Print an evaluation."""
    _results(evaluation, full)
    _pairs(evaluation, full)
    _curves(evaluation, full)
    lines = [*_ensembles(evaluation), *_choices(evaluation)]
    for line in lines:
        click.echo(line)


def _results(evaluation: Evaluation, full: bool) -> None:
    several = any(len(one.member_accuracies) > 1 for one in evaluation.results)
    learnt = any(one.trained_on for one in evaluation.results)
    columns = ["route", "set", "images", "precision", "accuracy", "95 %", "confidence", "ECE"]
    columns += ["agreement"] if several else []
    columns += ["best member"] if several and not full else []
    columns += ["ECE fitted", "NLL", "Brier", "macro-F1", "robustness", "parameters", "cost"] if full else []
    columns += ["trained on"] if learnt else []
    table = tables.table_of(*columns)
    images = {one.name: str(one.images) for one in evaluation.sets}
    routes = {one.label: one for one in evaluation.routes}
    for one in evaluation.results:
        cells = [one.route, one.set, images[one.set], evaluation.machine.precision, f"{one.accuracy:.3f}"]
        cells += [f"{one.low:.3f}-{one.high:.3f}", f"{one.confidence:.3f}", f"{one.ece:.3f}"]
        cells += _of_members(one, full) if several else []
        if full:
            honest = one.calibrated
            cells += [f"{honest.ece:.3f}" if honest else "", f"{one.nll:.3f}", f"{one.brier:.3f}"]
            cells += [f"{one.macro_f1:.3f}", _signed(one.effective_robustness)]
            cells += [f"{routes[one.route].parameters:,}", f"{one.cost:.3g}"]
        cells += [str(one.trained_on)] if learnt else []
        table.add_row(*cells)
    tables.print_table(table)


def _of_members(one: Result, full: bool) -> list[str]:
    if len(one.member_accuracies) < 2:
        return [""] if full else ["", ""]
    best, accuracy = max(one.member_accuracies.items(), key=lambda item: item[1])
    return [f"{one.agreement:.3f}", *([] if full else [f"{best} {accuracy:.3f}"])]


def _pairs(evaluation: Evaluation, full: bool) -> None:
    """Agreement of every two models on every set; with `full` also how their errors overlap."""
    first = [pair for pair in evaluation.pairs if pair.set == evaluation.reference.name]
    if not first:
        return
    sets = [one.name for one in evaluation.sets]
    found = {(pair.a, pair.b, pair.set): pair for pair in evaluation.pairs}
    table = tables.table_of(
        "pair",
        *(f"agree on {name}" for name in sets),
        *(["errors shared", "same error", "confident shared", "doubtful shared"] if full else []),
    )
    ranked = sorted(first, key=lambda pair: pair.agreement)
    for pair in ranked if full else ranked[:_PAIRS]:
        cells = [f"{pair.a} | {pair.b}"]
        cells += [f"{found[pair.a, pair.b, name].agreement:.3f}" for name in sets]
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
    for one in evaluation.curves:
        table = tables.table_of(f"alpha of {one.adapter}", *(f"{alpha:g}" for alpha in one.alphas))
        for name, accuracies in one.accuracy.items():
            table.add_row(name, *(f"{accuracy:.3f}" for accuracy in accuracies))
        for name, beyond in one.effective_robustness.items() if full else ():
            table.add_row(f"{name}, robustness", *(_signed(value) for value in beyond))
        click.echo()
        tables.print_table(table)
        for line in _alphas(one):
            click.echo(line)


def _alphas(one: Curve) -> Iterator[str]:
    for choice in one.choices:
        yield f"alpha by {_RULES[choice.rule]}: {choice.chosen:g}{_cost(choice, list(one.accuracy))}"


_RULES = {
    "accuracy": "accuracy on the first set",
    "nll": "likelihood on the first set",
    "budget": "the smallest that loses at most a point there",
    "half": "habit",
}


def _choices(evaluation: Evaluation) -> Iterator[str]:
    if not evaluation.choices or len(evaluation.sets) < 2:
        return
    yield ""
    for choice in evaluation.choices:
        yield f"route by {_RULES[choice.rule]}: {choice.chosen}{_cost(choice, list(choice.accuracy))}"


def _cost(choice: Choice, sets: Sequence[str]) -> str:
    """What a choice costs on the sets whose labels it did not see."""
    costs = [
        f"{name} {100 * choice.cost[name]:.1f} (to {_text(choice.oracle[name])})"
        for name in sets[1:]
        if choice.cost[name] > 0
    ]
    if len(sets) < 2:
        return ""
    return (
        f"; points lost to the best choice: {', '.join(costs)}"
        if costs
        else "; the best choice elsewhere, too"
    )


def _text(chosen: str | float) -> str:
    return chosen if isinstance(chosen, str) else f"{chosen:g}"


def _ensembles(evaluation: Evaluation) -> Iterator[str]:
    for place, one in enumerate(evaluation.ensembles):
        if place == 0:
            yield ""
        yield _ensemble(one)
        for control in one.controls:
            yield f"  {_control(control)}"


def _ensemble(one: Ensemble) -> str:
    rules = f"mean {one.mean:.3f}, prob {one.prob:.3f}, vote {one.vote:.3f}"
    return (
        f"{one.route} on {one.set}: {rules}; best member {one.best_member} {one.best:.3f}, "
        f"{_difference(one.over_best)}; mean member {one.mean_of_members:.3f}, worst {one.worst:.3f}"
    )


def _control(one: Control) -> str:
    return (
        f"against {one.size} seeds of {one.method}: {one.ensemble:.3f} and {one.mean:.3f}, "
        f"{_difference(one.over_control)}"
    )


def _difference(one: Difference) -> str:
    p = "" if one.mcnemar_p is None else f", p {one.mcnemar_p:.2g}"
    return f"{100 * one.difference:+.1f} points ({100 * one.low:+.1f} to {100 * one.high:+.1f}{p})"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"
