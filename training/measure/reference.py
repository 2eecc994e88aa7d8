"""What a route did on held-out images, as monitoring compares with: from logits and frozen features.

Shapes: n images, K members, C classes, D the backbone's width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Protocol

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
from petl_vit import cascade, foreign, random_features
from petl_vit.combine import Answer, combine
from petl_vit.confidence import BINS, EDGES, bins_of, cumulative
from petl_vit.errors import InvalidInput
from petl_vit.estimators import SCORES, estimate, threshold
from petl_vit.precision import Precision
from petl_vit.random_features import RandomFeatures
from training.measure.versions import package_versions

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

_BLOCK = 8 * 2**20  # logits that are combined at a time
_RANDOM = 256  # random features
_DIGITS = 7  # of the statistics of features, which are computed from float32


class Sliced(Protocol):
    """Logits of images, some at a time."""

    def __getitem__(self, rows: slice, /) -> NDArray[np.floating[Any]]:
        """[b, K, C]"""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What a route's members said of labelled images.

    Attributes:
        logits: [n, K, C], in the order of the answer's classes; read in slices.
        labels: [n]
        features: [n, D], of the frozen backbone; None where they were not computed.
        base: [n], what the frozen backbone with the task's base head alone answers; None as before.
    """

    logits: Sliced
    labels: Ints
    features: Array | None = None
    base: Ints | None = None


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What is known of each image whose logits are finite, [f] all but the votes, [f, K]; where it stands."""

    places: Ints
    predicted: Ints
    votes: Ints
    confidence: Array
    agreement: Array
    entropy: Array
    mutual_information: Array
    scores: dict[str, Array]

    @classmethod
    def together(cls, blocks: "Sequence[_Said]") -> "_Said":
        names = [field.name for field in fields(cls) if field.name != "scores"]
        scores = {name: np.concatenate([block.scores[name] for block in blocks]) for name in SCORES}
        return cls(
            **{name: np.concatenate([getattr(block, name) for block in blocks]) for name in names},
            scores=scores,
        )


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
    said = _said(route, observed.logits, len(observed.labels))
    labels = observed.labels[said.places]
    if not len(labels):
        raise InvalidInput(
            f"{route.text} answers none of the {data.images} images of {data.name} with finite numbers",
            field="route",
            remedy="measure it with --precision fp32, or train it again",
        )
    correct = said.predicted == labels
    base = None if observed.base is None else observed.base[said.places]
    return Reference(
        route=route,
        data=data,
        classes=classes,
        precision=precision,
        made_at=datetime.now(UTC),
        versions=package_versions(),
        images=len(labels),
        invalid=len(observed.labels) - len(labels),
        accuracy=float(correct.mean()),
        member_accuracies=tuple((said.votes == labels[:, None]).mean(axis=0).tolist()),
        agreement=float(said.agreement.mean()),
        entropy=max(float(said.entropy.mean()), 0.0),
        mutual_information=float(said.mutual_information.mean()),
        pairs=_pairs(said.votes, labels),
        confidence=_confidence(said.confidence, correct),
        atc=_thresholds(said.scores, correct),
        unanimous=int((said.votes == said.votes[:, :1]).all(axis=1).sum()),
        base_overrides=None if base is None else int((said.predicted != base).sum()),
        true=_counts(labels, len(classes)),
        predicted=_counts(said.predicted, len(classes)),
        confusion=_confusion(labels, said.predicted),
        features=None if observed.features is None else _features(observed.features[said.places]),
        no_estimate=f"{len(labels)} images are fewer than {FEWEST}" if len(labels) < FEWEST else "",
    )


def _said(route: ReferenceRoute, logits: Sliced, images: int) -> _Said:
    size = max(1, _BLOCK // max(1, logits[:1].size))
    blocks = []
    for start in range(0, images, size):
        z = np.asarray(logits[start : start + size], dtype=np.float64)
        finite = np.flatnonzero(np.isfinite(z).all(axis=(1, 2)))
        answer, votes = _answer(route, z[finite])
        blocks.append(
            _Said(
                places=start + finite,
                predicted=answer.predicted,
                votes=votes,
                confidence=answer.probabilities.max(axis=-1),
                agreement=answer.agreement,
                entropy=answer.entropy,
                mutual_information=answer.mutual_information,
                scores={name: score(answer.probabilities) for name, score in SCORES.items()},
            )
        )
    return _Said.together(blocks)


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


def _thresholds(scores: dict[str, Array], correct: NDArray[np.bool_]) -> dict[str, ReferenceThreshold]:
    thresholds = {}
    for name, values in scores.items():
        least = threshold(values, correct)
        thresholds[name] = ReferenceThreshold(
            threshold=least if np.isfinite(least) else None, estimate=estimate(values, least)
        )
    return thresholds


def _counts(of: Ints, count: int) -> tuple[int, ...]:
    return tuple(np.bincount(of, minlength=count).tolist())


def _confusion(labels: Ints, predicted: Ints) -> tuple[tuple[int, int, int], ...]:
    cells, counts = np.unique(np.stack([labels, predicted], axis=1), axis=0, return_counts=True)
    return tuple((int(t), int(p), int(n)) for (t, p), n in zip(cells, counts, strict=True))


def _features(features: Array) -> ReferenceFeatures:
    mean, variance = features.mean(axis=0), features.var(axis=0)
    distances = foreign.left_out(features)
    usual = float(np.quantile(distances, foreign.SHARE, method="higher"))
    plane = foreign.Plane.through(features)
    random = RandomFeatures(
        width=features.shape[1], count=_RANDOM, bandwidth=_rounded(random_features.bandwidth(features))
    )
    return ReferenceFeatures(
        mean=tuple(map(_rounded, mean.tolist())),
        variance=tuple(map(_rounded, variance.tolist())),
        directions=len(plane.directions),
        plane_f16=ReferenceFeatures.packed(plane),
        distance=usual,
        beyond=int((distances > usual).sum()),
        random=RandomFeatureMean(
            seed=random.seed,
            bandwidth=random.bandwidth,
            mean=tuple(map(_rounded, random.of(features).mean(axis=0).tolist())),
        ),
    )


def _rounded(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")
