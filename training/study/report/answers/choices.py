"""Which method when: for each situation what these images speak for, with the evidence."""

from dataclasses import dataclass

from petl_vit.summaries import summaries
from training.measure.document import EvaluatedRoute
from training.study.report.answers.standing import Standing
from training.study.report.contents import Cell, Table
from training.study.report.drawing import magnitude
from training.study.report.material import Material
from training.study.report.words import accuracy, counted, evidence, listed, percent, signed, told


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to take in a situation; `take` is empty where nothing can be said."""

    situation: str
    take: str
    because: str


def choices_table(material: Material, stand: Standing) -> Table:
    """The advice as a table."""
    rows = tuple(
        (Cell(text=one.situation), Cell(text=one.take or "–", strong=bool(one.take)), Cell(text=one.because))
        for one in advice(material, stand)
    )
    return Table(
        title="What to take",
        caption=f"From the {material.reference.images:,} images of {material.reference.name}. Models “tied” "
        "with the best one are those that a paired test cannot tell from it.",
        columns=("if you want", "take", "because"),
        rows=rows,
    )


def advice(material: Material, stand: Standing) -> list[Advice]:
    """For every situation that was measured."""
    every = (
        _accurate(material, stand),
        _smallest(material, stand),
        _folded(material, stand),
        _quick(material, stand),
        *_joint(material),
        *_shifted(material),
        _honest(material),
    )
    return [one for one in every if one is not None]


def _accurate(material: Material, stand: Standing) -> Advice:
    tied = [material.short(route.label) for route in stand.tied[1:]]
    rest = f"Tied with it: {listed(tied)}." if tied else "All others are worse by more than chance."
    return Advice(
        situation="the highest accuracy from one model",
        take=material.short(stand.best.label),
        because=f"{accuracy(stand.result)}. {rest}",
    )


def _smallest(material: Material, stand: Standing) -> Advice:
    route = stand.smallest
    return Advice(
        situation="the smallest adapter",
        take=material.short(route.label),
        because=f"{magnitude(route.parameters)} trained parameters, the fewest among the "
        f"{counted(len(stand.tied), 'tied model')}. {_beside_best(material, stand, route)}",
    )


def _folded(material: Material, stand: Standing) -> Advice | None:
    """The best of the tied ones that become plain weights."""
    known = summaries()
    folding = [r for r in stand.tied if r.method in known and known[r.method].foldable]
    if not folding:
        return None
    return Advice(
        situation="plain weights for another server",
        take=material.short(folding[0].label),
        because=f"It folds into the backbone's weights, and costs nothing there. "
        f"{_beside_best(material, stand, folding[0])}",
    )


def _quick(material: Material, stand: Standing) -> Advice | None:
    timed = [route for route in stand.tied if route.seconds]
    if len(timed) < 2:
        return None
    route = min(timed, key=lambda one: one.seconds or 0.0)
    return Advice(
        situation="the shortest training",
        take=material.short(route.label),
        because=f"{route.seconds:,.0f} s, the shortest among the {counted(len(timed), 'tied model')} of "
        f"which it is recorded. {_beside_best(material, stand, route)}",
    )


def _beside_best(material: Material, stand: Standing, route: EvaluatedRoute) -> str:
    rival = stand.rival(route.label)
    if rival is None:
        return f"It is also the most accurate, {accuracy(stand.result)}."
    return (
        f"{accuracy(rival.result)}; the best, {material.short(stand.best.label)}, is "
        f"{signed(rival.over.difference)} points from it ({evidence(rival.over, rival.p)})."
    )


def _joint(material: Material) -> list[Advice]:
    """Ensembles and cascades, the most accurate of each kind."""
    said = []
    for kind, situation in (
        ("ensemble", "the highest accuracy, for several forwards"),
        ("cascade", "nearly that, for less"),
    ):
        results = material.measured(route for route in material.joint if route.kind == kind)
        if not results:
            continue
        label = results[0].route
        found = next(
            (
                e
                for e in material.evaluation.ensembles
                if e.route == label and e.set == material.reference.name
            ),
            None,
        )
        gain = ""
        if found is not None:
            shown = "more" if told(found.over_best) > 0 else "not measurably more"
            gain = (
                f" {signed(found.over_best.difference)} points over {material.short(found.best_member)}, its "
                f"best member: {shown} ({evidence(found.over_best)})."
            )
        said.append(
            Advice(
                situation=situation,
                take=material.short(label) if found is None or told(found.over_best) > 0 else "",
                because=f"{material.short(label)}: {accuracy(results[0])} for {results[0].cost:.3g} models "
                f"an image in the mean.{gain}",
            )
        )
    return said


def _shifted(material: Material) -> list[Advice]:
    """On each shifted set the best single model, beside the one that the reference set chooses."""
    said = []
    chosen = material.measured(material.models)
    for one in material.shown[1:]:
        results = material.measured((r for r in material.routes.values() if r.cost == 1), one.name)
        if not results or not chosen:
            continue
        best, own = results[0], chosen[0].route
        over = material.comparison(best.route, own, one.name)
        better = over is not None and told(over) > 0
        text = f"{accuracy(best)}, the best of {len(results)} models there, which flatters it."
        if over is not None and best.route != own:
            text += f" {signed(over.difference)} points over {material.short(own)} ({evidence(over)})."
        said.append(
            Advice(
                situation=f"images like {one.name}",
                take=material.short(best.route) if better or best.route == own else "",
                because=text if better or best.route == own else f"{material.short(best.route)}: {text}",
            )
        )
    return said


def _honest(material: Material) -> Advice | None:
    results = [one for one in material.measured(material.routes.values()) if one.calibrated is not None]
    if not results:
        return None
    best = min(results, key=lambda one: one.calibrated.ece if one.calibrated else 1.0)
    after = best.calibrated.ece if best.calibrated else 0.0
    return Advice(
        situation="honest probabilities",
        take="a fitted temperature",
        because=f"The lowest calibration error after fitting is {percent(after)} "
        f"({material.short(best.route)}), {percent(best.raw.ece)} before; of all routes in the mean "
        f"{percent(sum(r.calibrated.ece for r in results if r.calibrated) / len(results))} after and "
        f"{percent(sum(r.raw.ece for r in results) / len(results))} before. No test is made of these.",
    )
