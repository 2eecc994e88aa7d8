"""Many streams of images at once, as counts, and the rules that watch them, for `benchmarks.alarms`.

Shapes: S streams, G alternatives.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from petl_vit.evidence import Array, Bets, Candidate, bets
from serving.monitor.alarms import allowed

Flags = NDArray[np.bool_]
WINDOW = 1000


class Rule(Protocol):
    """Watches S streams."""

    def step(self, n: int, total: Array) -> Array:
        """[S]: what the rule looks at after n more images with these sums; an alarm where it is high."""
        ...


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What is known of S streams before they begin: how often something happened on some images.

    Attributes:
        counts: [S]
    """

    counts: NDArray[np.int64]
    images: int

    @property
    def rates(self) -> Array:
        return self.counts / self.images


class EProcess:
    """The evidence of `petl_vit.evidence` of each stream, as its natural logarithm.

    Args:
        against: [S], what the mean of each stream may be.
        block: Divides the counts.
    """

    def __init__(self, against: Sequence[tuple[Candidate, ...]], *, block: int = 1) -> None:
        self._bets, self._block = _stacked(against), block
        self._wealth, self._images = self._bets.start(len(against)), np.zeros(len(against))

    def step(self, n: int, total: Array) -> Array:
        more = n / self._block
        self._wealth = self._bets.after(self._wealth, self._images, more, total / self._block)
        self._images = self._images + more
        return self._bets.log_e(self._wealth, self._images, unfinished=self._block > 1)


class ZTest:
    """How much higher the share of the last `WINDOW` images is than the reference's: z, once a window."""

    def __init__(self, reference: Reference, *, margin: float = 0.0) -> None:
        self._reference, self._margin = reference, margin
        self._n, self._total = 0, np.zeros(len(reference.counts))

    def step(self, n: int, total: Array) -> Array:
        self._n += n
        self._total = self._total + total
        if self._n < WINDOW:
            return np.full(len(total), -np.inf)
        share, known = self._total / self._n, self._reference.rates
        both = (self._total + self._reference.counts) / (self._n + self._reference.images)
        error = np.sqrt(both * (1 - both) * (1 / self._n + 1 / self._reference.images))
        self._n, self._total = 0, np.zeros(len(total))
        z: Array = (share - known - self._margin) / np.maximum(error, 1e-12)
        return z


class Cusum:
    """Page's cumulative sum: the log likelihood ratio of a rise by so many points, never below 0."""

    def __init__(self, reference: Reference, *, points: float) -> None:
        usual = (reference.counts + 0.5) / (reference.images + 1)
        risen = usual + points / 100
        self._one, self._zero = np.log(risen / usual), np.log1p(-risen) - np.log1p(-usual)
        self._sum = np.zeros(len(usual))

    def step(self, n: int, total: Array) -> Array:
        self._sum = np.maximum(self._sum + total * self._one + (n - total) * self._zero, 0.0)
        return self._sum


def open_to(
    reference: Reference, indicator: str, *, margin: float, most: float
) -> list[tuple[Candidate, ...]]:
    """[S]: what the mean of an indicator may be in each stream."""
    return [
        allowed(indicator, count / reference.images, reference.images, margin, most)
        for count in reference.counts.tolist()
    ]


def looks(images: int, *, step: int, fine: int = 10, fine_until: int = 1000) -> Iterator[int]:
    """How many images come between two looks: few at first."""
    done = 0
    while done < images:
        n = fine if done < fine_until else step
        done += n
        yield n


def highest(
    rules: Sequence[Rule], rate: float, images: Iterable[int], random: np.random.Generator, streams: int
) -> list[Array]:
    """[S] of each rule: the highest that it ever looks at, on the same streams of a rate."""
    found = [np.full(streams, -np.inf) for _ in rules]
    for n in images:
        total = random.binomial(n, rate, streams).astype(np.float64)
        found = [np.maximum(most, rule.step(n, total)) for most, rule in zip(found, rules, strict=True)]
    return found


def images_to_alarm(
    rule: Rule, limit: float, rate: float, images: Iterable[int], random: np.random.Generator, streams: int
) -> Array:
    """[S]: images until the rule reaches a limit; infinite where it does not within these."""
    found, done = np.full(streams, np.inf), 0
    for n in images:
        done += n
        reached = rule.step(n, random.binomial(n, rate, streams).astype(np.float64)) >= limit
        found[reached & np.isinf(found)] = done
        if np.isfinite(found).all():
            break
    return found


def _stacked(against: Sequence[tuple[Candidate, ...]]) -> Bets:
    """Those of each stream, or one for all where they are the same; short rows repeat their last."""
    distinct = list(dict.fromkeys(against))
    if len(distinct) == 1:
        return bets(distinct[0])
    each = [bets(one) for one in distinct]
    places = {one: place for place, one in enumerate(distinct)}
    order = np.array([places[one] for one in against])
    most = max(one.one.shape[-1] for one in each)

    def padded(rows: Array) -> Array:
        return np.pad(rows, ((0, 0), (0, most - rows.shape[-1])), mode="edge")

    return Bets(
        one=np.stack([padded(one.one) for one in each])[order],
        zero=np.stack([padded(one.zero) for one in each])[order],
        known=np.stack([one.known for one in each])[order],
    )
