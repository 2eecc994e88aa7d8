"""Evaluations of logits that are drawn, not computed: their numbers fit together as real ones do."""

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from petl_vit.combine import Combine
from training.measure.document import EvaluatedBackbone, EvaluatedRoute, EvaluatedSet, Evaluation, Machine
from training.measure.ensembles import Members, ensemble
from training.measure.figures import Curve, Result
from training.measure.logits import Floats, Stacked
from training.measure.paired import comparisons, pairs
from training.measure.scores import Labels, Scored, by_class, confusion, score, wilson

CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
SETS = {"photo": (400, 4.0), "art": (300, 2.2), "sketch": (300, 1.1)}
"""Images of each set, and how far the right class stands out."""
METHODS = {
    "linear": (0, 0.80, 0.0),
    "bitfit": (102_912, 0.98, 0.75),
    "layernorm": (38_400, 0.95, 0.7),
    "ssf": (205_824, 0.99, 0.8),
    "lora": (294_912, 1.0, 0.9),
    "fact_tk": (30_976, 0.96, 0.7),
    "adaptformer": (599_424, 1.0, 0.9),
    "convpass": (327_552, 1.02, 1.0),
    "vpt_deep": (460_800, 0.93, 0.9),
    "full": (85_798_656, 0.94, 1.6),
}
"""Parameters, skill and noise of its own of each method."""
_NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def evaluation(
    methods: tuple[str, ...] = tuple(METHODS),
    *,
    task: str = "photos",
    classes: tuple[str, ...] = CLASSES,
    sets: tuple[str, ...] = tuple(SETS),
    seeds: int = 3,
    of_all: bool = False,
) -> Evaluation:
    """One evaluation.

    Args:
        methods: One adapter each, but for `lora`, of which there are so many `seeds`; or `of_all`.
        sets: Names from `SETS`; the first is the reference.
    """
    seeded = methods if of_all else ("lora",)
    routes = _routes(methods, {method: seeds for method in seeded if seeds > 1})
    ensembles = [one for one in routes if one.kind == "ensemble"]
    single = [one for one in routes if one.kind != "ensemble"]
    results, compared, paired, joint = [], [], [], []
    along: dict[str, dict[str, tuple[float, ...]]] = {
        one.label: {} for one in single if one.kind == "adapter"
    }
    described = []
    for place, name in enumerate(sets):
        images, gap = SETS[name]
        labels, logits = _logits(single, images, gap, len(classes), seed=place)
        described.append(_set(name, labels, len(classes), shifted=place > 0))
        scored = {one.label: _score([logits[one.label]], labels) for one in single}
        for one in ensembles:
            scored[one.label] = _score([logits[member] for member in one.members], labels)
            ones = {label: logits[label] for label in one.members}
            seeds_of = {
                method: Members.equal({r.label: logits[r.label] for r in single if r.seeds_of == method})
                for method in {r.seeds_of for r in single if r.seeds_of}
            }
            joint.append(
                ensemble(
                    name,
                    one.label,
                    Members.equal(ones),
                    scored[one.label],
                    on_first=scored[one.label].member_accuracies,
                    seeds=seeds_of,
                )
            )
        for label, one in scored.items():
            members = next(route.members for route in routes if route.label == label)
            cooler = _score([logits[member] for member in members], labels, temperature=1.6)
            results.append(_result(label, name, one, cooler, len(classes)))
        compared += comparisons(name, scored)
        paired += pairs(name, {one.label: scored[one.label] for one in single}, len(classes))
        for label, points in along.items():
            points[name] = tuple(
                _score([(1 - alpha) * logits["base"] + alpha * logits[label]], labels).accuracy
                for alpha in _ALPHAS
            )
    return Evaluation(
        created_at=_NOW,
        corolla="0.1.0",
        machine=Machine(cpu="a CPU", cores=2, device="cpu", precision="fp32"),
        task=task,
        classes=classes,
        backbone=EvaluatedBackbone(name="vit_small_patch14_dinov2", digest="b" * 64, parameters=21_500_000),
        sets=tuple(described),
        routes=tuple(routes),
        results=tuple(results),
        pairs=tuple(paired),
        ensembles=tuple(joint),
        curves=tuple(_curve(single, label, points) for label, points in along.items())
        if len(sets) > 1
        else (),
        comparisons=tuple(compared),
        notes=(),
    )


_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def _routes(methods: tuple[str, ...], seeds: Mapping[str, int]) -> list[EvaluatedRoute]:
    routes = [_route("base", "base", "linear")]
    for method in methods:
        for seed in range(seeds.get(method, 1)):
            name = f"{method}-{seed}:1" if method in seeds else f"{method}:1"
            group = method if method in seeds else ""
            routes.append(_route(name, "adapter", method, seed=seed, seeds_of=group))
    adapters = [one for one in routes if one.kind == "adapter" and one.seed == 0]
    if len(adapters) > 2:
        members = tuple(one.label for one in adapters if one.method not in ("linear", "full"))
        routes.append(_joint(members, adapters))
        if len(members) > 2:
            routes.append(_joint(members[:2], adapters))
    return routes


def _route(
    name: str, kind: str, method: str, *, seed: int | None = None, seeds_of: str = ""
) -> EvaluatedRoute:
    return EvaluatedRoute.of(
        label=name,
        text=name,
        kind=kind,
        method=method,
        setting="rank=8" if method in ("lora", "adaptformer", "convpass") else "",
        members=(name,),
        parameters=METHODS[method][0] if kind == "adapter" else 0,
        cost=1,
        temperature=1.0,
        seed=seed,
        head_init="probe",
        seconds=None if kind == "base" else 60.0 + METHODS[method][0] % 97,
        seeds_of=seeds_of,
    )


def _joint(members: tuple[str, ...], adapters: list[EvaluatedRoute]) -> EvaluatedRoute:
    text = ", ".join(members)
    return EvaluatedRoute(
        label=text if len(members) < 3 else "everyone",
        text=text,
        kind="ensemble",
        method=None,
        members=members,
        parameters=sum(one.parameters for one in adapters if one.label in members),
        cost=len(members),
        temperature=1.0,
    )


def _logits(
    routes: list[EvaluatedRoute], images: int, gap: float, classes: int, *, seed: int
) -> tuple[Labels, dict[str, Floats]]:
    """Labels [n] and each model's logits [n, C]: all share what is hard about an image."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, images)
    truth = np.eye(classes)[labels]
    hard = draw.normal(0, 1.6, (images, classes))
    logits = {}
    for one in routes:
        skill, own = (0.78, 0.0) if one.kind == "base" else METHODS[str(one.method)][1:]
        noise = draw.normal(0, 0.6 + own, (images, classes))
        logits[one.label] = (1.5 * (gap * skill * truth + hard + noise)).astype(np.float32)
    return labels, logits


def _set(name: str, labels: Labels, classes: int, *, shifted: bool) -> EvaluatedSet:
    counts = tuple(int(count) for count in np.bincount(labels, minlength=classes))
    return EvaluatedSet(
        name=name,
        source=f"{name}/",
        digest=name.encode().hex().ljust(64, "0"),
        images=len(labels),
        shift=None,
        shifted=shifted,
        class_counts=counts,
    )


def _score(logits: list[Floats], labels: Labels, temperature: float = 1.0) -> Scored:
    return score(
        Stacked(tuple(logits)), labels, np.ones(len(logits)), rule=Combine.MEAN, temperature=temperature
    )


def _result(label: str, on: str, scored: Scored, cooler: Scored, classes: int) -> Result:
    low, high = wilson(int(scored.correct.sum()), len(scored.labels))
    macro_f1, per_class = by_class(scored, classes)
    raw = scored.honesty.scores(scored.correct)
    return Result(
        route=label,
        set=on,
        accuracy=scored.accuracy,
        low=low,
        high=high,
        macro_f1=macro_f1,
        per_class=per_class,
        confusion=confusion(scored, classes),
        agreement=float(scored.agreement.mean()),
        confidence=raw.confidence,
        nll=raw.nll,
        ece=raw.ece,
        brier=raw.brier,
        confidence_histogram=raw.bins,
        raw=raw,
        calibrated=cooler.honesty.scores(scored.correct),
        member_accuracies={},
        cost=float(scored.asked.mean()),
    )


def _curve(routes: list[EvaluatedRoute], label: str, points: dict[str, tuple[float, ...]]) -> Curve:
    first = next(iter(points.values()))
    return Curve(
        adapter=label,
        method=str(next(one.method for one in routes if one.label == label)),
        alphas=_ALPHAS,
        accuracy=points,
        nll={name: tuple(1 - a for a in along) for name, along in points.items()},
        chosen_alpha=_ALPHAS[int(np.argmax(first))],
        choices=(),
        effective_robustness={},
        lines={},
    )
