"""Evaluations with accuracies as a test states them; models that are three points apart are told apart."""

from collections.abc import Mapping
from datetime import UTC, datetime

from training.measure.document import EvaluatedBackbone, EvaluatedRoute, EvaluatedSet, Evaluation, Machine
from training.measure.figures import (
    Bin,
    Comparison,
    Control,
    Curve,
    Difference,
    Ensemble,
    PerClass,
    Result,
    Scores,
)
from training.measure.scores import wilson

IMAGES = 1000
PARAMETERS = {
    "base": 0,
    "linear": 0,
    "layernorm": 38_400,
    "bitfit": 102_912,
    "lora": 294_912,
    "full": 85_798_656,
}


def small(
    accuracies: Mapping[str, Mapping[str, float]],
    *,
    ensembles: tuple[Ensemble, ...] = (),
    curves: tuple[Curve, ...] = (),
) -> Evaluation:
    """One evaluation.

    Args:
        accuracies: By set and label; the first set is the reference. Labels are `base`, or a method and `:1`.
    """
    sets = list(accuracies)
    labels = list(accuracies[sets[0]])
    return Evaluation(
        created_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        corolla="0.1.0",
        machine=Machine(cpu="a CPU", cores=2, device="cpu", precision="fp32"),
        task="photos",
        classes=("cat", "dog"),
        backbone=EvaluatedBackbone(name="vit", digest="b" * 64, parameters=5_700_000),
        sets=tuple(_set(name, shifted=place > 0) for place, name in enumerate(sets)),
        routes=tuple(_route(label) for label in labels),
        results=tuple(_result(name, label, accuracies[name][label]) for name in sets for label in labels),
        ensembles=ensembles,
        curves=curves,
        comparisons=tuple(
            Comparison(set=name, a=a, b=b, n=IMAGES, **dict(apart(accuracies[name][a] - accuracies[name][b])))
            for name in sets
            for place, a in enumerate(labels)
            for b in labels[place + 1 :]
        ),
    )


def apart(difference: float) -> Difference:
    """A difference with an interval of two points either way."""
    told = abs(difference) >= 0.03
    return Difference(
        difference=difference,
        low=difference - 0.02,
        high=difference + 0.02,
        mcnemar_p=0.001 if told else 0.6,
        only_a=50,
        only_b=50,
    )


def joined(gain: float, over_control: float | None = None) -> Ensemble:
    """lora and bitfit, so much better than the better one, and than two seeds of lora."""
    control = Control(
        method="lora",
        seeds=("lora-0:1", "lora-1:1"),
        size=2,
        mean=0.92,
        prob=0.92,
        vote=0.92,
        mean_of_members=0.9,
        ensemble=0.92 + (over_control or 0),
        ece=0.1,
        ensemble_ece=0.1,
        over_control=apart(over_control or 0),
    )
    return Ensemble(
        set="photo",
        route="lora:1, bitfit:1",
        members=("lora:1", "bitfit:1"),
        mean=0.92 + gain,
        prob=0.92,
        vote=0.92,
        best=0.92,
        best_member="lora:1",
        worst=0.91,
        worst_member="bitfit:1",
        mean_of_members=0.915,
        selected=0.92,
        selected_member="lora:1",
        over_best=apart(gain),
        over_selected=apart(gain),
        controls=() if over_control is None else (control,),
    )


def curve(label: str, here: tuple[float, ...], there: tuple[float, ...]) -> Curve:
    """An adapter at alpha 0, 0.5 and 1 on photo and sketch."""
    return Curve(
        adapter=label,
        method=label.partition(":")[0],
        alphas=(0.0, 0.5, 1.0),
        accuracy={"photo": here, "sketch": there},
        nll={},
        chosen_alpha=(0.0, 0.5, 1.0)[max(range(3), key=here.__getitem__)],
        choices=(),
        effective_robustness={},
        lines={},
    )


def _set(name: str, *, shifted: bool) -> EvaluatedSet:
    return EvaluatedSet(
        name=name,
        source=name,
        digest=name.encode().hex().ljust(64, "0"),
        images=IMAGES,
        shift=None,
        shifted=shifted,
        class_counts=(IMAGES // 2, IMAGES // 2),
    )


def _route(label: str) -> EvaluatedRoute:
    method = label.partition(":")[0]
    several = "," in label
    return EvaluatedRoute(
        label=label,
        text=label,
        kind="ensemble" if several else "base" if label == "base" else "adapter",
        method=None if several else "linear" if label == "base" else method,
        members=tuple(label.split(", ")),
        parameters=0 if several else PARAMETERS[method],
        cost=len(label.split(", ")),
        temperature=1.0,
    )


def _result(on: str, label: str, accuracy: float) -> Result:
    right = round(accuracy * IMAGES)
    low, high = wilson(right, IMAGES)
    half, empty = IMAGES // 2, Bin(count=0, correct=0, confidence=None)
    scores = Scores(
        temperature=1.0,
        confidence=0.9,
        nll=0.4,
        ece=0.1,
        brier=0.2,
        bins=(*[empty] * 13, Bin(count=IMAGES, correct=right, confidence=0.9), empty),
    )
    one = PerClass(precision=accuracy, recall=accuracy, f1=accuracy, support=half)
    found = round(accuracy * half)
    return Result(
        route=label,
        set=on,
        accuracy=accuracy,
        low=low,
        high=high,
        macro_f1=accuracy,
        per_class=(one, one),
        confusion=((found, half - found), (half - found, found)),
        agreement=1.0,
        confidence=0.9,
        nll=0.4,
        ece=0.1,
        brier=0.2,
        confidence_histogram=scores.bins,
        raw=scores,
        calibrated=scores,
        member_accuracies={},
        cost=1.0,
    )
