"""How often two models give the same answer: a matrix of single models, or of methods of many models."""

from training.measure.document import EvaluatedRoute
from training.measure.figures import Pair
from training.study.report.contents import Cell, Data, Table
from training.study.report.material import Material
from training.study.report.words import percent

MOST = 16
"""Models in a matrix; where there are more, the seeds of a method share a row."""


def agreement_matrix(material: Material) -> Table | str:
    """The matrix on the reference set, or why there is none."""
    pairs = _pairs(material)
    if not pairs:
        return "There is only one single model, so there is no pair to compare."
    groups = _groups(material)
    names = [material.group_name(group) for group in groups]
    shares = [one.agreement for one in pairs.values()]
    span = (min(shares), max(shares))
    rows = []
    for name, row in zip(names, groups, strict=True):
        cells = [Cell(text=name)]
        for column in groups:
            cells.append(_cell(_mean(pairs, row, column), span, same=row is column))
        rows.append(tuple(cells))
    together = any(len(group) > 1 for group in groups)
    seeds = (
        " Seeds of one method share a row; the diagonal is their agreement with each other."
        if together
        else ""
    )
    return Table(
        title=f"Agreement on {material.reference.name}",
        caption=f"Share of the {material.reference.images:,} images to which both models give the same "
        "class, right or wrong, in per cent. Paler cells are pairs that differ more, and gain more from an "
        f"ensemble.{seeds}",
        columns=("model", *names),
        rows=tuple(rows),
        data=_data(material),
        heat=True,
    )


def agreement_in_words(material: Material) -> tuple[str, ...]:
    """What the pairs say in the mean, with the seeds of one method as the yardstick."""
    pairs = _pairs(material)
    if not pairs:
        return ()
    different, alike = list[Pair](), list[Pair]()
    for (a, b), pair in pairs.items():
        first, second = material.routes[a], material.routes[b]
        same = bool(first.seeds_of) and first.seeds_of == second.seeds_of
        (alike if same else different).append(pair)
    said = []
    if different:
        said.append(
            f"Two models that differ in more than their seed give the same answer to {_share(different)} of "
            f"the images in the mean, and of the images that either says wrongly, {_wrong(different)} are "
            "wrong in both."
        )
    if alike:
        said.append(
            f"Adapters that differ in their seed alone agree on {_share(alike)} and share {_wrong(alike)} of "
            "their errors: that is how alike the same method is to itself."
        )
    return tuple(said)


def _share(pairs: list[Pair]) -> str:
    return percent(sum(pair.agreement for pair in pairs) / len(pairs))


def _wrong(pairs: list[Pair]) -> str:
    shared = [pair.error_overlap for pair in pairs if pair.error_overlap is not None]
    return percent(sum(shared) / len(shared)) if shared else "none"


def _pairs(material: Material) -> dict[tuple[str, str], Pair]:
    """Pairs of single models on the reference set."""
    models = {route.label for route in material.models}
    return {
        (one.a, one.b): one
        for one in material.evaluation.pairs
        if one.set == material.reference.name and {one.a, one.b} <= models
    }


def _groups(material: Material) -> list[list[EvaluatedRoute]]:
    if len(material.models) <= MOST:
        return [[route] for route in material.models]
    return material.groups


def _mean(
    pairs: dict[tuple[str, str], Pair], rows: list[EvaluatedRoute], columns: list[EvaluatedRoute]
) -> float | None:
    values = []
    for first in rows:
        for second in columns:
            pair = pairs.get((first.label, second.label)) or pairs.get((second.label, first.label))
            if pair is not None and first.label != second.label:
                values.append(pair.agreement)
    return sum(values) / len(values) if values else None


def _cell(share: float | None, span: tuple[float, float], *, same: bool) -> Cell:
    if share is None:
        return Cell(text="·" if same else "–", number=True)
    low, high = span
    shade = (share - low) / (high - low) if low < high else 1.0
    return Cell(text=f"{100 * share:.0f}", sort=share, shade=shade, number=True)


def _data(material: Material) -> Data:
    shown = {one.name for one in material.shown}
    rows = [
        (
            one.set,
            one.a,
            one.b,
            one.agreement,
            one.kappa,
            one.both_right,
            one.only_a,
            one.only_b,
            one.both_wrong,
            one.error_overlap,
            one.same_error,
            one.confident_overlap,
            one.doubtful_overlap,
        )
        for one in material.evaluation.pairs
        if one.set in shown
    ]
    columns: tuple[str, ...] = (
        "set",
        "a",
        "b",
        "agreement",
        "kappa",
        "both_right",
        "only_a",
        "only_b",
        "both_wrong",
    )
    columns += ("error_overlap", "same_error", "confident_overlap", "doubtful_overlap")
    return Data(name="agreement", columns=columns, rows=tuple(rows))
