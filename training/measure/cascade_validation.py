"""What a cascade costs and loses: counted on labelled images, and cross-validated where it learns from them.

A cascade is learnt anew, order included, without the images that it is then judged by. `calibrated` learns
one that keeps to a stated loss in that judgement.

Shapes: n images, K members, C classes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.model_selection import StratifiedKFold

from petl_vit.cascade import Score
from petl_vit.combine import Array
from petl_vit.errors import InvalidInput
from training.measure.cascade import DEFAULT, Learner, LearntCascade

FOLDS = 5
REPEATS = 5
_CONFIDENCE = 0.95
_SHARES = (1.0, 0.5, 0.25, 0.1, 0.0)
"""Of the stated loss: what thresholds are expected to lose, each tried where the one before lost too much."""
_FEWEST = 50
_WORTH = 0.02
"""A cascade that asks less than this share fewer members than all of them is not worth having."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a cascade did on labelled images; of a cross-validation, the mean of its repeats.

    Attributes:
        images: How many.
        accuracy: The cascade's.
        ensemble: The accuracy of all members.
        members: The accuracy of each member.
        cost: Members asked, mean over the images.
        settled: [K], the share of the images that were settled by so many members.
        lost, gained: Images that all members together answer rightly and the cascade wrongly, and the other
            way round.
    """

    images: int
    accuracy: float
    ensemble: float
    members: tuple[float, ...]
    cost: float
    settled: tuple[float, ...]
    lost: float
    gained: float

    @property
    def loss(self) -> float:
        """The accuracy of all members less the cascade's; negative where it gained."""
        return (self.lost - self.gained) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Between which the loss on further such images lies, at 95 %."""
        return paired_interval(self.lost, self.gained, self.images)

    @property
    def cost_over_ensemble(self) -> float:
        """The share of the members that was asked."""
        return self.cost / len(self.members)


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A cascade that was learnt on all images, and what such a cascade did on images it was not learnt on."""

    cascade: LearntCascade
    validated: Outcome


def paired_interval(lost: float, gained: float, n: int) -> tuple[float, float]:
    """The interval of a difference of two accuracies on the same images, by Bonett and Price (2012), 95 %.

    Args:
        lost, gained: How many images only the first, and only the second answers rightly.
        n: How many images in all.
    """
    z = float(norm.ppf((1 + _CONFIDENCE) / 2))
    a, b = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    half = z * math.sqrt(max(a + b - (a - b) ** 2, 0.0) / (n + 2))
    return max(a - b - half, -1.0), min(a - b + half, 1.0)


def least_told(n: int) -> float:
    """The smallest loss that so many images can tell from none."""
    return paired_interval(0, 0, n)[1]


def images_to_tell(loss: float) -> int:
    """How many images it takes to tell a loss from none."""
    z = float(norm.ppf((1 + _CONFIDENCE) / 2))
    return math.ceil(z * math.sqrt(2) / loss) - 2


def outcome(cascade: LearntCascade, logits: Array, labels: NDArray[np.int64]) -> Outcome:
    """What a cascade does on images: those of another domain, or held out from its learning."""
    return _Count(logits, labels).add(cascade, np.arange(len(labels))).outcome()


def cross_validate(
    logits: Array,
    labels: NDArray[np.int64],
    *,
    loss: float,
    score: Score = DEFAULT,
    seed: int = 0,
    copies: Sequence[str] | None = None,
) -> Outcome:
    """What cascades of a loss do on images that they were not learnt on; arguments as of `calibrated`."""
    return _Validation(logits, labels, folds(labels, copies, seed)).outcome(loss, score)


def calibrated(
    logits: Array,
    labels: NDArray[np.int64],
    *,
    loss: float,
    score: Score = DEFAULT,
    seed: int = 0,
    copies: Sequence[str] | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Calibrated:
    """The cascade that asks fewest members and whose cross-validated loss is at most `loss`.

    Args:
        logits: [n, K, C], finite, of images that no member was trained on.
        seed: Decides the folds, and nothing else is random.
        copies: [n], equal for images that are copies, which are in one fold; None is that none are.
        advance: Called with the number of learnt cascades that are done; `STEPS` in all.

    Raises:
        InvalidInput: There are too few images, or none of the cascades keeps to the loss and asks fewer
            members than all; says the best that can be had.
    """
    _check(logits, labels, copies)
    learner = Learner(logits, labels)
    advance(1)
    validation = _Validation(logits, labels, folds(labels, copies, seed), advance)
    tried = list[Outcome]()
    for share in _SHARES:
        tried.append(validation.outcome(share * loss, score))
        if tried[-1].loss <= loss:
            break
    best = tried[-1]
    if best.loss > loss or best.cost_over_ensemble > 1 - _WORTH:
        raise _cannot_be_met(loss, validation, tried, score)
    return Calibrated(cascade=learner.cascade(share * loss, score), validated=best)


STEPS = 1 + FOLDS * REPEATS
"""How many cascades `calibrated` learns."""


class _Validation:
    """What is learnt without each fold of some images, for any loss and score."""

    def __init__(
        self,
        logits: Array,
        labels: NDArray[np.int64],
        folds: Iterator[NDArray[np.bool_]],
        advance: Callable[[int], None] = lambda n: None,
    ) -> None:
        self._logits, self._labels = logits, labels
        self._parts = list[tuple[Learner, NDArray[np.int64]]]()
        for heldout in folds:
            self._parts.append((Learner(logits[~heldout], labels[~heldout]), np.flatnonzero(heldout)))
            advance(1)

    def outcome(self, loss: float, score: Score) -> Outcome:
        count = _Count(self._logits, self._labels)
        for learner, heldout in self._parts:
            count.add(learner.cascade(loss, score), heldout)
        return count.outcome()


class _Count:
    """Adds up what cascades do on some images, each answered equally often."""

    def __init__(self, logits: Array, labels: NDArray[np.int64]) -> None:
        self._logits, self._labels = logits, labels
        self._whole = logits.mean(axis=1).argmax(axis=-1) == labels
        self._asked = np.zeros(logits.shape[1], dtype=np.int64)
        self._right = self._lost = self._gained = 0

    def add(self, cascade: LearntCascade, places: NDArray[np.int64]) -> "_Count":
        """Counts a cascade's answers to the images at these places."""
        said = cascade.answers(self._logits[places])
        right, whole = said.answer.predicted == self._labels[places], self._whole[places]
        self._asked += np.bincount(said.asked - 1, minlength=len(self._asked))
        self._right += int(right.sum())
        self._lost += int((whole & ~right).sum())
        self._gained += int((right & ~whole).sum())
        return self

    def outcome(self) -> Outcome:
        n, answers = len(self._labels), int(self._asked.sum())
        shares = self._asked / answers
        members = (self._logits.argmax(axis=-1) == self._labels[:, None]).mean(axis=0)
        return Outcome(
            images=n,
            accuracy=self._right / answers,
            ensemble=float(self._whole.mean()),
            members=tuple(members.tolist()),
            cost=float(shares @ np.arange(1, len(shares) + 1)),
            settled=tuple(shares.tolist()),
            lost=self._lost * n / answers,
            gained=self._gained * n / answers,
        )


def folds(labels: NDArray[np.int64], copies: Sequence[str] | None, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Which images each fold holds out, [n]; a repeat has `FOLDS`, each in the classes' proportions."""
    first, image = _different(len(labels), copies)
    for repeat in range(REPEATS):
        splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed + repeat)
        for _, heldout in splitter.split(first, labels[first]):
            yield np.isin(image, heldout)


def _different(n: int, copies: Sequence[str] | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The place of the first of each different image, and which of these each of the images is, [n]."""
    of = np.arange(n) if copies is None else np.array(copies)
    _, first, image = np.unique(of, return_index=True, return_inverse=True)
    return first, image


def _check(logits: Array, labels: NDArray[np.int64], copies: Sequence[str] | None) -> None:
    if len(labels) < _FEWEST:
        raise InvalidInput(
            f"{len(labels)} images are fewer than {_FEWEST}, too few to learn a cascade",
            field="data",
            remedy="give more: a larger --holdout, or --all-images where nothing was trained on them",
        )
    first, _ = _different(len(labels), copies)
    if np.bincount(labels[first]).max() < FOLDS:
        raise InvalidInput(
            f"no class has {FOLDS} different images, so they cannot be cross-validated",
            field="data",
            remedy="give more images of each class",
        )
    if not np.isfinite(logits).all():
        raise InvalidInput(
            "a member's logits are not finite", field="route", remedy="leave it out, or train it again"
        )


def _cannot_be_met(loss: float, validation: _Validation, tried: list[Outcome], score: Score) -> InvalidInput:
    """Says the best that can be had: the smallest loss at which fewer members than all are asked."""
    several = [*tried, *(validation.outcome(more, score) for more in (0.002, 0.005, 0.01, 0.02))]
    worth = [one for one in several if one.cost_over_ensemble <= 1 - _WORTH]
    members, n = len(tried[0].members), tried[0].images
    if not worth:
        return InvalidInput(
            f"on these {n} images no loss up to 0.02 lets a cascade ask fewer than all {members} members",
            field="loss",
            remedy="use the members' mean instead",
        )
    best = min(worth, key=lambda one: (max(one.loss, 0.0), one.cost))
    return InvalidInput(
        f"a loss of {loss:g} cannot be met on these {n} images: the best that a cascade does is a loss of "
        f"{best.loss:.4f} with {best.cost:.2f} of {members} members asked",
        field="loss",
        remedy=f"state loss<={math.ceil(max(best.loss, 0.0) * 1000 + 1) / 1000:g}, or give more images",
    )
