"""An ensemble over images of latent difficulty: its members' answers and the labels, with a shift that is
known.

Every member is right where its quality exceeds the image's difficulty plus its own luck, so that members err
on the same images; a wrong member names the image's likely mistake or any other class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

CLASSES = 100


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What was answered.

    Attributes:
        votes: [n, M]
        labels: [n]
    """

    votes: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def answer(self) -> NDArray[np.int64]:
        """[n], the members' majority; of a tie the class of the first of them."""
        counts = np.stack([(self.votes == vote[:, None]).sum(axis=1) for vote in self.votes.T], axis=1)
        return np.take_along_axis(self.votes, counts.argmax(axis=1)[:, None], axis=1)[:, 0]

    @property
    def accuracy(self) -> float:
        return float((self.answer == self.labels).mean())

    @property
    def member_accuracies(self) -> list[float]:
        return [float((vote == self.labels).mean()) for vote in self.votes.T]

    @property
    def agreements(self) -> dict[tuple[int, int], float]:
        pairs = combinations(range(self.votes.shape[1]), 2)
        return {(i, j): float((self.votes[:, i] == self.votes[:, j]).mean()) for i, j in pairs}


def answers(qualities: Sequence[float], images: int, *, shift: float, seed: int) -> Answers:
    """Members of these qualities, in standard deviations of difficulty, on images harder by a shift."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, images)
    difficulty = random.normal(size=(images, 1)) + shift
    right = np.asarray(qualities) > difficulty + 0.6 * random.normal(size=(images, len(qualities)))
    likely = (labels + random.integers(1, CLASSES, images)) % CLASSES
    other = (labels[:, None] + random.integers(1, CLASSES, right.shape)) % CLASSES
    wrong = np.where(random.random(right.shape) < 0.5, likely[:, None], other)
    return Answers(votes=np.where(right, labels[:, None], wrong), labels=labels)


def spread(members: int, half: float, *, quality: float = 1.2) -> list[float]:
    """Qualities that differ from the middle one by up to `half`."""
    return [float(value) for value in quality + np.linspace(-half, half, members)]
