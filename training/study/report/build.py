"""The parts of the page in their order."""

from collections.abc import Sequence

from petl_vit.errors import InvalidInput
from training.study.report.answers.choices import choices_table
from training.study.report.answers.claims import claims_table
from training.study.report.answers.standing import Standing, standing
from training.study.report.answers.summary import cards
from training.study.report.contents import Block, Contents, Section
from training.study.report.figures.accuracy import accuracy_by_size
from training.study.report.figures.curves import alpha_curves, published_curves
from training.study.report.figures.ensembles import ensemble_gain
from training.study.report.figures.published import beside_the_study, order_in_words, sizes_in_the_study
from training.study.report.figures.reliability import (
    confidence_against_accuracy,
    confidence_by_domain,
    reliability,
)
from training.study.report.figures.sweep import sweep_history
from training.study.report.material import Material
from training.study.report.published_results import SOURCE
from training.study.report.tables.agreement import agreement_in_words, agreement_matrix
from training.study.report.tables.classes import worst_classes
from training.study.report.tables.everything import everything
from training.study.report.words import counted, listed, told


def contents(material: Material) -> Contents:
    """The whole page.

    Raises:
        InvalidInput: There is no adapter in the evaluation.
    """
    stand = standing(material)
    if stand is None or not material.adapters:
        raise InvalidInput(
            f"the evaluation of {material.evaluation.task} has no adapter, so there is nothing to report",
            field="eval",
            remedy="train one with `corolla train METHOD --data IMAGES --task TASK`, then evaluate it",
        )
    return Contents(
        title=f"Adapters of {material.evaluation.task}",
        subtitle=_subtitle(material),
        facts=_facts(material),
        cards=cards(material, stand),
        sections=tuple(_sections(material, stand)),
        notes=_notes(material),
    )


def _sections(material: Material, stand: Standing) -> list[Section]:
    chosen = _served(material, stand)
    return [
        _section("choices", "Which method when", choices_table(material, stand)),
        _section("claims", "What the study says, and what holds here", claims_table(material)),
        _section("size", "Accuracy and size", accuracy_by_size(material)),
        _section(
            "agreement", "Where models agree", agreement_matrix(material), words=agreement_in_words(material)
        ),
        _section("ensembles", "What ensembles gain", ensemble_gain(material)),
        _section("alphas", "Between frozen and trained (WiSE)", alpha_curves(material)),
        _section("reliability", "Is a confidence of 80 % right in 80 % of the cases?", reliability(material)),
        _section(
            "domains",
            "Confidence by domain",
            confidence_against_accuracy(material),
            confidence_by_domain(material, chosen),
        ),
        _section("disputed", "The most disputed images", material.disputed or material.no_disputed),
        _section("classes", "The worst classes", worst_classes(material, chosen)),
        _section("sweep", "How the settings were chosen", sweep_history(material)),
        _section(
            "study",
            "Beside the study's published results",
            beside_the_study(material),
            sizes_in_the_study(),
            published_curves(),
            words=tuple(order_in_words(material)),
        ),
        _section("everything", "Everything", everything(material)),
    ]


def _served(material: Material, stand: Standing) -> str:
    """The most accurate ensemble where one is shown to pay, else the best single model."""
    paying = [
        one
        for one in material.evaluation.ensembles
        if one.set == material.reference.name and told(one.over_best) > 0
    ]
    return max(paying, key=lambda one: one.mean).route if paying else stand.best.label


def _section(key: str, heading: str, *blocks: Block | str, words: Sequence[str] = ()) -> Section:
    """A section of blocks, each of which may be the reason why it is absent."""
    return Section(
        key=key,
        heading=heading,
        words=tuple(words),
        blocks=tuple(block for block in blocks if not isinstance(block, str)),
        absent=" ".join(block for block in blocks if isinstance(block, str)),
    )


def _subtitle(material: Material) -> str:
    names = [one.name for one in material.shifted]
    shifts = f", and on {counted(len(names), 'shifted set')}" if names else ""
    models, joint = len(material.models), len(material.joint)
    return (
        f"{counted(models, 'single model')} and {counted(joint, 'ensemble')} over one frozen backbone, "
        f"measured on {material.reference.images:,} images of {material.reference.name}{shifts}."
    )


def _facts(material: Material) -> tuple[tuple[str, str], ...]:
    found = material.evaluation
    sets = ", ".join(f"{one.name} {one.images:,}" for one in material.shown)
    more = len(found.sets) - len(material.shown)
    sets += f" and {counted(more, 'set')} more" if more else ""
    backbone = f"{found.backbone.name}, {found.backbone.parameters / 1e6:.1f}M parameters"
    machine = f"{found.machine.device} ({found.machine.cpu}), {found.machine.precision}"
    return (
        ("measured", f"{found.created_at:%Y-%m-%d %H:%M} UTC"),
        ("backbone", backbone),
        ("classes", f"{len(found.classes)}"),
        ("images", sets),
        ("machine", machine),
        ("corolla", found.corolla),
    )


def _notes(material: Material) -> tuple[str, ...]:
    learnt = sum(one.trained_on for one in material.evaluation.results)
    own = [
        "Intervals of accuracies are Wilson's at 95 %. Differences are of the same images: 95 % bootstrap "
        "intervals, and McNemar's exact test. The best of several models on one set looks better there "
        "than it will be on new images.",
        f"Published results: {SOURCE}. The repository states no licence; the numbers are repeated with "
        "their source.",
    ]
    if learnt:
        own.insert(
            0,
            "Some images were training images of a model that was measured on them: see trained_on in the "
            "data.",
        )
    return (*own, *_left_out(material), *material.notes)


def _left_out(material: Material) -> list[str]:
    """Which files of the sets are not among the images."""
    return [
        f"Left out of {one.name}: {listed([f'{count:,} {why}' for why, count in one.left_out.items()])}."
        for one in material.evaluation.sets
        if one.left_out
    ]
