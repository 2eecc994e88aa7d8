"""What a route did on held-out images, as monitoring compares with: from logits and frozen features.

Shapes: n images, K members, C classes, D the backbone's width.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from model_store.format.reference import (
    FEWEST,
    Pair,
    RandomFeatureMean,
    Reference,
    ReferenceConfidence,
    ReferenceData,
    ReferenceFeatures,
    ReferenceRoute,
    ReferenceThreshold,
)
from petl_vit import cascade, random_features
from petl_vit.combine import Answer, combine
from petl_vit.confidence import BINS, EDGES, bins_of, cumulative
from petl_vit.errors import InvalidInput
from petl_vit.estimators import SCORES, estimate, threshold
from petl_vit.precision import Precision
from petl_vit.random_features import RandomFeatures
from training.measure.versions import package_versions

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

_RANDOM = 256  # random features
_DIGITS = 7  # of the statistics of features, which are computed from float32


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What a route's members said of labelled images.

    Attributes:
        logits: [n, K, C], in the order of the answer's classes.
        labels: [n]
        features: [n, D], of the frozen backbone; None where they were not computed.
    """

    logits: Array
    labels: Ints
    features: Array | None = None


def reference(
    observed: Observed,
    *,
    route: ReferenceRoute,
    data: ReferenceData,
    classes: tuple[str, ...],
    precision: Precision,
) -> Reference:
    """The reference of a route on a set of images.

    Raises:
        InvalidInput: No image has finite logits under every member.
    """
    finite = np.asarray(np.isfinite(observed.logits).all(axis=(1, 2)))
    if not finite.any():
        raise InvalidInput(
            f"{route.text} answers none of the {len(finite)} images of {data.name} with finite numbers",
            field="route",
            remedy="measure it with --precision fp32, or train it again",
        )
    labels = observed.labels[finite]
    answer, votes = _answer(route, observed.logits[finite])
    correct = answer.predicted == labels
    return Reference(
        route=route,
        data=data,
        classes=classes,
        precision=precision,
        made_at=datetime.now(UTC),
        versions=package_versions(),
        images=len(labels),
        invalid=int((~finite).sum()),
        accuracy=float(correct.mean()),
        member_accuracies=tuple((votes == labels[:, None]).mean(axis=0).tolist()),
        agreement=float(answer.agreement.mean()),
        entropy=max(float(answer.entropy.mean()), 0.0),
        mutual_information=float(answer.mutual_information.mean()),
        pairs=_pairs(votes, labels),
        confidence=_confidence(answer.probabilities.max(axis=-1), correct),
        atc=_thresholds(answer, correct),
        true=_counts(labels, len(classes)),
        predicted=_counts(answer.predicted, len(classes)),
        confusion=_confusion(labels, answer.predicted),
        features=None if observed.features is None else _features(observed.features[finite]),
        no_estimate=f"{len(labels)} images are fewer than {FEWEST}" if len(labels) < FEWEST else "",
    )


def _answer(route: ReferenceRoute, logits: Array) -> tuple[Answer, Ints]:
    """What the route says, and the votes [n, K] of all members, also of those that a cascade does not ask."""
    if route.cascade is not None:
        of = route.cascade
        answered = cascade.answers(logits, of.score, of.stages, order=of.order).answer
        return answered, logits.argmax(axis=-1)
    weights = np.array([member.weight for member in route.members])
    answered = combine(logits, weights, rule=route.combine, temperature=route.temperature)
    return answered, answered.votes


def _pairs(votes: Ints, labels: Ints) -> tuple[Pair, ...]:
    right = votes == labels[:, None]
    return tuple(
        Pair(
            first=i,
            second=j,
            agreements=int((votes[:, i] == votes[:, j]).sum()),
            both_correct=int((right[:, i] & right[:, j]).sum()),
            first_only=int((right[:, i] & ~right[:, j]).sum()),
            second_only=int((~right[:, i] & right[:, j]).sum()),
            both_wrong=int((~right[:, i] & ~right[:, j]).sum()),
        )
        for i in range(votes.shape[1])
        for j in range(i + 1, votes.shape[1])
    )


def _confidence(confidences: Array, correct: NDArray[np.bool_]) -> ReferenceConfidence:
    confidences = np.minimum(confidences, 1.0)  # a sum of shares may exceed 1 by rounding
    bins = bins_of(confidences)
    return ReferenceConfidence(
        mean=float(confidences.mean()),
        edges=EDGES,
        cumulative=tuple(cumulative(confidences).tolist()),
        images=_counts(bins, BINS),
        correct=_counts(bins[correct], BINS),
        total=tuple(np.bincount(bins, weights=confidences, minlength=BINS).tolist()),
    )


def _thresholds(answer: Answer, correct: NDArray[np.bool_]) -> dict[str, ReferenceThreshold]:
    thresholds = {}
    for name, score in SCORES.items():
        scores = score(answer.probabilities)
        least = threshold(scores, correct)
        thresholds[name] = ReferenceThreshold(
            threshold=least if np.isfinite(least) else None, estimate=estimate(scores, least)
        )
    return thresholds


def _counts(of: Ints, count: int) -> tuple[int, ...]:
    return tuple(np.bincount(of, minlength=count).tolist())


def _confusion(labels: Ints, predicted: Ints) -> tuple[tuple[int, int, int], ...]:
    cells, counts = np.unique(np.stack([labels, predicted], axis=1), axis=0, return_counts=True)
    return tuple((int(t), int(p), int(n)) for (t, p), n in zip(cells, counts, strict=True))


def _features(features: Array) -> ReferenceFeatures:
    mean, variance = features.mean(axis=0), features.var(axis=0)
    spread = np.where(variance > 0, variance, 1.0)
    distances = np.sqrt((((features - mean) ** 2) / spread).mean(axis=1))
    random = RandomFeatures(
        width=features.shape[1], count=_RANDOM, bandwidth=_rounded(random_features.bandwidth(features))
    )
    return ReferenceFeatures(
        mean=tuple(map(_rounded, mean.tolist())),
        variance=tuple(map(_rounded, variance.tolist())),
        distance=float(np.quantile(distances, 0.95)),
        random=RandomFeatureMean(
            seed=random.seed,
            bandwidth=random.bandwidth,
            mean=tuple(map(_rounded, random.of(features).mean(axis=0).tolist())),
        ),
    )


def _rounded(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")
