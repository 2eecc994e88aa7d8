"""The answers on top of the page: which method, which ensemble, what a shift does, what to do."""

from training.measure.figures import Ensemble
from training.study.report.answers.standing import Standing, resolution
from training.study.report.contents import Card
from training.study.report.drawing import magnitude
from training.study.report.material import Material, control_of
from training.study.report.words import (
    accuracy,
    compared,
    counted,
    evidence,
    listed,
    percent,
    points,
    signed,
    told,
)


def cards(material: Material, stand: Standing) -> tuple[Card, ...]:
    """The four answers."""
    return (
        _method(material, stand),
        _ensemble(material),
        _shift(material, stand),
        _next(material, stand),
    )


def _method(material: Material, stand: Standing) -> Card:
    best, smallest = material.short(stand.best.label), stand.smallest
    images = f"the {material.reference.images:,} images of {material.reference.name}"
    if not stand.rivals:
        alone = len(material.models) == 1
        return Card(
            question="Which method?",
            answer=f"{best}: {accuracy(stand.result)} on {images}."
            if alone
            else f"It cannot be told: nothing was compared. {best} has {accuracy(stand.result)}.",
            evidence=("It is the only single model: a choice needs two or more.",) if alone else (),
        )
    if len(stand.tied) == 1:
        second = stand.rivals[0]
        return Card(
            question="Which method?",
            answer=f"{best}: {accuracy(stand.result)} on {images}, better than every other single model.",
            evidence=(
                f"The next is {material.short(second.route.label)} with {accuracy(second.result)}; the "
                f"difference is {signed(second.over.difference)} points ({evidence(second.over, second.p)}).",
            ),
        )
    if smallest.label == stand.best.label:
        answer = (
            f"{best}: the most accurate, {accuracy(stand.result)}, and the smallest of those tied with it."
        )
        others = [material.short(route.label) for route in stand.tied[1:]]
        return Card(question="Which method?", answer=answer, evidence=(_tied(material, stand, others),))
    rival = stand.rival(smallest.label)
    assert rival is not None, "a tied model was compared with the best"
    return Card(
        question="Which method?",
        answer=f"{material.short(smallest.label)}. It is the smallest ({magnitude(smallest.parameters)} "
        f"trained parameters) of the {len(stand.tied)} models that {images} cannot tell from the best.",
        evidence=(
            f"It has {accuracy(rival.result)}, the best, {best}, {accuracy(stand.result)}. The difference is "
            f"{signed(rival.over.difference)} points ({evidence(rival.over, rival.p)}; "
            f"{counted(len(stand.rivals), 'comparison')}).",
            _tied(
                material, stand, [material.short(r.label) for r in stand.tied if r.label != smallest.label]
            ),
        ),
    )


def _tied(material: Material, stand: Standing, others: list[str]) -> str:
    worse = len(stand.rivals) + 1 - len(stand.tied)
    return (
        f"Tied with it: {listed(others)}. {counted(worse, 'model is', 'models are')} worse by more than "
        "chance."
    )


def _ensemble(material: Material) -> Card:
    here = [one for one in material.evaluation.ensembles if one.set == material.reference.name]
    if not here:
        return Card(
            question="Which ensemble?",
            answer="None was measured.",
            evidence=("Add one to the evaluation, such as --route 'lora, bitfit'.",),
        )
    best = max(here, key=lambda one: one.mean)
    gain, name = best.over_best, material.short(best.route)
    shown = (
        f"{name} beats its best member"
        if told(gain) > 0
        else f"None is shown to pay: {name}, the best, is not measurably better than its best member"
        if told(gain) == 0
        else f"None: {name} is worse than its best member"
    )
    return Card(
        question="Which ensemble?",
        answer=f"{shown}, {percent(best.mean)} against {percent(best.best)}.",
        evidence=(
            f"{signed(gain.difference)} points over {material.short(best.best_member)} ({evidence(gain)}). "
            f"The members have {percent(best.worst)} to {percent(best.best)}, "
            f"{percent(best.mean_of_members)} in the mean.",
            _control(material, best),
        ),
    )


def _control(material: Material, best: Ensemble) -> str:
    control = control_of(best)
    if control is None:
        return (
            "Whether different methods are what helps is open: there are no adapters of one method that "
            "differ in their seed alone, as a control (`corolla train --seed`)."
        )
    over = control.over_control
    word = compared(over, "more than", "less than")
    return (
        f"Control, the strongest there is: {control.size} seeds of {control.method} have "
        f"{percent(control.mean)}. {control.size} members of {material.short(best.route)} have "
        f"{percent(control.ensemble)}, {word} that ({evidence(over)})."
    )


def _shift(material: Material, stand: Standing) -> Card:
    shifted = [(one, r) for one in material.shown[1:] if (r := material.result(stand.best.label, one.name))]
    if not shifted:
        return Card(
            question="What does a shift do?",
            answer="No shifted set was measured.",
            evidence=(
                "Add images of another domain with the same classes (--data), or a corruption (--shift "
                "noise:3).",
            ),
        )
    name = material.short(stand.best.label)
    worst, result = min(shifted, key=lambda pair: pair[1].accuracy)
    drop = stand.result.accuracy - result.accuracy
    apart = result.high < stand.result.low
    parts = [f"{one.name} {accuracy(r)}, {percent(r.confidence)} sure" for one, r in shifted]
    said = [f"{name}: {material.reference.name} {accuracy(stand.result)}; {'; '.join(parts)}."]
    sure = result.confidence - result.accuracy
    if apart and sure > 0:
        said.append(
            f"On {worst.name} it is {points(sure)} surer than it is right: confidence alone does not tell."
        )
    said += _robust(material, worst.name)
    return Card(
        question="What does a shift do?",
        answer=f"On {worst.name} {name} loses {points(drop)}, {percent(result.accuracy)} against "
        f"{percent(stand.result.accuracy)} on {material.reference.name}."
        if apart
        else f"The intervals of {name} on {material.reference.name} and on the shifted sets overlap: a loss "
        "cannot be told.",
        evidence=tuple(said),
    )


def _robust(material: Material, on: str) -> list[str]:
    """The best PETL adapter of the reference set against full fine-tuning on a shifted set."""
    petl = material.measured(material.petl)
    full = material.measured(route for route in material.models if route.method == "full")
    over = material.comparison(petl[0].route, full[0].route, on) if petl and full else None
    if over is None:
        return []
    word = compared(over, "better than", "worse than")
    return [
        f"On {on} {material.short(over.a)}, the most accurate PETL adapter on {material.reference.name}, is "
        f"{word} full fine-tuning: {signed(over.difference)} points ({evidence(over)})."
    ]


def _next(material: Material, stand: Standing) -> Card:
    task = material.evaluation.task
    take = stand.smallest
    said = []
    ensembles = [
        one
        for one in material.evaluation.ensembles
        if one.set == material.reference.name and told(one.over_best) > 0
    ]
    commands = [f"corolla routes put best '{take.text}' --task {task}"]
    if take.kind == "base":
        said.append("No adapter is shown to be better than the frozen backbone with its base head.")
    if ensembles:
        one = max(ensembles, key=lambda e: e.mean)
        commands.append(f"corolla routes put careful '{material.routes[one.route].text}' --task {task}")
        said.append(
            "Serve the single model by default, and the ensemble where an error costs more than forwards do."
        )
    for curve in material.evaluation.curves:
        if curve.adapter == take.label and material.shifted and curve.chosen_alpha < 1:
            said.append(
                f"Where shifted images are expected, weigh alpha {curve.chosen_alpha:g} of "
                f"{material.short(take.label)}, which {material.reference.name} alone chooses; the WiSE "
                "figure shows what it does elsewhere."
            )
            commands.append(f"corolla routes put steady '{curve.chosen_alpha:g}*{take.text}' --task {task}")
    smallest = resolution(material)
    if smallest is not None:
        said.append(
            f"With {material.reference.images:,} images, the interval of a difference usually reaches "
            f"{points(smallest)} to either side: a smaller one is seldom told from chance, and a larger one "
            "not always. Four times as many images halve that."
        )
    return Card(
        question="What to do?",
        answer=f"Take {material.short(take.label)}" + (" or the ensemble." if ensembles else "."),
        evidence=tuple(said),
        commands=tuple(commands),
    )
