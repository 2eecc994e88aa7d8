"""What one route says of labelled images, image by image, and how good and how honest that is.

Only a few numbers of each image are kept, so that many routes on many images fit in memory.

Shapes: n images, b at a time, K members, C classes.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy import stats
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from model_store.format.records import Cascade
from petl_vit.cascade import answers
from petl_vit.combine import Answer, Combine, combine, softmax
from training.measure.arrays import Flags, Floats, Labels
from training.measure.candidate import Candidate
from training.measure.figures import Bin, PerClass, Scores
from training.measure.logits import Logits, Stacked, weights_of

BINS = 15
MOST_CONFUSED = 200
"""Classes up to which a confusion matrix is written down."""
_SMALLEST = {Combine.VOTE: 1e-15}
"""What a probability of 0 counts as in a likelihood; votes give 0 to every class that nobody votes for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Honesty:
    """The probabilities of one route at one temperature, image by image.

    Attributes:
        confidence: [n], of the answer.
        nll: [n], nats.
        brier: [n], 0 to 2.
    """

    temperature: float
    confidence: Floats
    nll: Floats
    brier: Floats

    def scores(self, correct: Flags) -> Scores:
        bins = bins_of(self.confidence, correct)
        return Scores(
            temperature=self.temperature,
            confidence=float(self.confidence.mean()),
            nll=float(self.nll.mean()),
            ece=expected_calibration_error(bins),
            brier=float(self.brier.mean()),
            bins=bins,
        )

    def replaced(self, where: Flags, other: "Honesty", *, temperature: float) -> "Honesty":
        """Where the flags [n] say so the other's numbers; `temperature` is told of the mixture."""
        return Honesty(
            temperature=temperature,
            confidence=np.where(where, other.confidence, self.confidence),
            nll=np.where(where, other.nll, self.nll),
            brier=np.where(where, other.brier, self.brier),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """One route on one set.

    Attributes:
        labels, predicted: [n].
        votes: [n, K], the class of each member.
        agreement: [n], share of the members whose vote is the answer.
        asked: [n], members that were asked.
        honesty: At the route's temperature.
    """

    labels: Labels
    predicted: Labels
    votes: Labels
    agreement: Floats
    asked: Labels
    honesty: Honesty
    correct: Flags = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "correct", self.predicted == self.labels)

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    @property
    def member_accuracies(self) -> list[float]:
        return [float(share) for share in (self.votes == self.labels[:, None]).mean(axis=0)]


def scored(one: Candidate, logits: Logits, labels: Labels, *, temperature: float | None = None) -> Scored:
    """What a route says of images with these labels [n], by default at its own temperature."""
    return score(
        logits.stacked(one.route),
        labels,
        weights_of(one.route),
        rule=one.route.combine,
        temperature=one.temperature if temperature is None else temperature,
        cascade=one.cascade,
        staged=temperature is None,
    )


def score(
    logits: Stacked,
    labels: Labels,
    weights: Floats,
    *,
    rule: Combine,
    temperature: float = 1.0,
    cascade: Cascade | None = None,
    staged: bool = True,
) -> Scored:
    """What members that answer together say.

    Args:
        logits: The members' [n, K, C].
        labels: [n].
        weights: [K].
        cascade: Thresholds by which not every member is asked.
        staged: Whether a cascade answers at the temperatures of its stages, and not at `temperature`.
    """
    parts = []
    for block in logits.blocks():
        z, truth = logits[block], labels[block]
        if cascade is not None:
            asked, answer = _cascaded(z, cascade, None if staged else temperature)
        else:
            asked = np.full(len(z), logits.members, dtype=np.int64)
            answer = combine(z, weights, rule=rule, temperature=temperature)
        p = answer.probabilities
        of_truth = np.take_along_axis(p, truth[:, None], axis=-1)[:, 0]
        confidence = np.take_along_axis(p, answer.predicted[:, None], axis=-1)[:, 0]
        floor = _SMALLEST.get(rule, np.finfo(float).tiny)
        parts.append(
            {
                "predicted": answer.predicted,
                "votes": z.argmax(axis=-1),
                "asked": asked,
                "agreement": answer.agreement,
                "confidence": np.minimum(confidence, 1.0),
                "nll": -np.log(np.clip(of_truth, floor, 1.0)),
                "brier": np.clip((p**2).sum(axis=-1) - 2 * of_truth + 1, 0.0, 2.0),
            }
        )
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Scored(
        labels=labels,
        predicted=whole["predicted"],
        votes=whole["votes"],
        agreement=whole["agreement"],
        asked=whole["asked"],
        honesty=Honesty(
            temperature=temperature,
            confidence=whole["confidence"],
            nll=whole["nll"],
            brier=whole["brier"],
        ),
    )


def _cascaded(z: Floats, cascade: Cascade, temperature: float | None) -> tuple[Labels, Answer]:
    """How many members a cascade asks for each image, [b], and what these say.

    Args:
        temperature: In place of those of the stages, once it is settled who is asked.
    """
    said = answers(z, cascade.score, cascade.stages, order=cascade.order)
    if temperature is None:
        return said.asked, said.answer
    sums = z[:, list(cascade.order)].cumsum(axis=1)
    mean = sums[np.arange(len(z)), said.asked - 1] / said.asked[:, None]
    return said.asked, replace(said.answer, probabilities=softmax(mean / temperature))


def bins_of(confidence: Floats, correct: Flags) -> tuple[Bin, ...]:
    """Answers by confidence, in bins of equal width."""
    places = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    right = np.bincount(places, weights=correct, minlength=BINS)
    total = np.bincount(places, weights=confidence, minlength=BINS)
    return tuple(
        Bin(count=int(n), correct=int(k), confidence=float(min(s / n, 1.0)) if n else None)
        for n, k, s in zip(counts, right, total, strict=True)
    )


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """The mean gap between accuracy and confidence over the bins, each by its answers."""
    images = sum(one.count for one in bins)
    gaps = (abs(one.correct - one.count * one.confidence) for one in bins if one.confidence is not None)
    return min(1.0, sum(gaps) / images)


def wilson(correct: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    interval = stats.binomtest(correct, images).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def by_class(scored: Scored, classes: int) -> tuple[float, tuple[PerClass, ...]]:
    """Macro-F1 over the classes that have images, and the figures of every class."""
    precision, recall, f1, support = precision_recall_fscore_support(
        scored.labels, scored.predicted, labels=np.arange(classes), zero_division=np.nan
    )
    figures = []
    for p, r, f, n in zip(precision, recall, f1, support, strict=True):
        if n == 0:
            figures.append(PerClass(precision=None, recall=None, f1=None, support=0))
        else:
            figures.append(
                PerClass(
                    precision=None if np.isnan(p) else float(p),
                    recall=float(r),
                    f1=float(f),
                    support=int(n),
                )
            )
    return float(np.mean([one.f1 for one in figures if one.f1 is not None])), tuple(figures)


def confusion(scored: Scored, classes: int) -> tuple[tuple[int, ...], ...] | None:
    """[C, C], rows are the true classes; None of very many classes."""
    if classes > MOST_CONFUSED:
        return None
    matrix = confusion_matrix(scored.labels, scored.predicted, labels=np.arange(classes))
    return tuple(tuple(int(count) for count in row) for row in matrix)
