"""Evidence that the mean of a bounded number has risen: a sequential test from counters alone.

Somebody bets against "the mean is at most this rate", starts with a wealth of 1, and gains in the long run
only if it is not. The wealth is an e-process: it ever reaches 1 / alpha with at most the probability alpha,
however often one looks. Which rate it is, reference images say; what they leave open is part of the evidence.
docs/alarms.md states all of it and proves it. Pure functions, float64, logarithms are natural.

Shapes: ... any number of streams at once, K candidates for the rate, G alternatives to each.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from petl_vit.errors import InvalidInput

Array = NDArray[np.float64]

AT_START = 0.4
"""The share of the wealth that is bet from the first image on."""

PACE = 3000.0
"""The images after which about half of the rest has been bet, too."""

_NEAREST, _RATIO = 0.02, 2.0
"""Distances of the alternatives from the rate, as angles: the least, and the ratio of each to the one before.
At a rate of 10 % the least is 0.6 points."""

_OPEN, _STEP = 0.25, 1.2
"""Of what is bet on the reference, the share that needs no level; how far levels are apart, as logarithms."""


def upper_count(count: int, n: int, level: float) -> float:
    """What a probability exceeds with at most the probability `level`, after `count` of n independent events.

    The bound of Clopper and Pearson.
    """
    _check_sample(count, n, level)
    if count >= n:
        return 1.0
    ways = _log_ways(count, n)
    times = np.arange(count + 1)

    def too_low(p: float) -> bool:
        terms = ways + times * math.log(p) + (n - times) * math.log1p(-p)
        return float(np.logaddexp.reduce(terms)) > math.log(level)

    return _last(too_low, count / n)


def upper_mean(total: float, n: int, level: float) -> float:
    """What a mean exceeds with at most the probability `level`, after n independent numbers in [0, 1].

    Chernoff's bound: n times the divergence of the sample's mean from the bound is log(1 / level).

    Args:
        total: The sum of the numbers.
    """
    _check_sample(total, n, level)
    mean = total / n
    return _last(lambda p: n * divergence(mean, p) < -math.log(level), mean)


def divergence(mean: float, rate: float) -> float:
    """Of Kullback and Leibler, between two events of these probabilities, nats."""
    one = 0.0 if mean == 0 else mean * math.log(mean / rate)
    zero = 0.0 if mean == 1 else (1 - mean) * math.log((1 - mean) / (1 - rate))
    return one + zero


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A range of means that reference images leave open.

    Attributes:
        rate: What no mean in it exceeds, in (0, 1].
        log_e: The evidence that these images are against every mean in it, below 0 where there is none.
    """

    rate: float
    log_e: float = 0.0


def candidates(bound: Callable[[float], float], *, margin: float, most: float) -> tuple[Candidate, ...]:
    """All means from 0 to 1, in ranges, from the lowest: the higher, the more speaks against them.

    Args:
        bound: What the mean exceeds with at most a probability, from that probability.
        margin: How much more is allowed.
        most: What evidence has to be able to reach, as a logarithm.
    """
    enough = (n for n in itertools.count(1) if math.log((1 - _OPEN) / n) + _STEP * n >= most)
    count, found, against = next(enough), [], _OPEN
    for place in range(1, count + 1):
        level = math.exp(-_STEP * place)
        found.append(Candidate(rate=min(bound(level) + margin, 1.0), log_e=math.log(against)))
        against += (1 - _OPEN) / count / level
    return (*found, Candidate(rate=1.0, log_e=math.log(against)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Bets:
    """What is bet against "the mean is at most a rate": one bet for each alternative, a rate above it.

    Attributes:
        one, zero: [..., K, G], what a bet is multiplied by for an image whose number is 1, and 0, as
            logarithms.
        known: [..., K], what is known against the candidates before any image.
    """

    one: Array
    zero: Array
    known: Array

    def start(self, *streams: int) -> Array:
        """[..., K, G]: the wealth of each bet before any image."""
        shape = np.broadcast_shapes((*streams, *self.one.shape[-2:]), self.one.shape)
        return np.full(shape, math.log(AT_START / self.one.shape[-1]))

    def after(self, wealth: Array, images: ArrayLike, n: ArrayLike, total: ArrayLike) -> Array:
        """[..., K, G]: the wealth of each bet after n more images.

        Args:
            wealth: [..., K, G], after `images` images [...].
            n: [...], real numbers where images are weighted or thinned.
            total: [...], the sum of their numbers, from 0 to n.
        """
        before, more, ones = (np.asarray(a, dtype=np.float64) for a in (images, n, total))
        moved = np.maximum(reserve(before) - reserve(before + more), 0.0)
        with np.errstate(divide="ignore"):
            added = np.log(moved / self.one.shape[-1])
        zeros = (more - ones)[..., None, None]
        grown = wealth + ones[..., None, None] * self.one + zeros * self.zero
        found: Array = np.logaddexp(grown, added[..., None, None])
        return found

    def log_e(self, wealth: Array, images: ArrayLike, *, unfinished: bool = False) -> Array:
        """[...]: the evidence against every candidate: what speaks least against one.

        Args:
            unfinished: The last block of images may not be over; what it lacks counts as 0.
        """
        if unfinished:
            wealth, images = wealth + self.zero, np.asarray(images) + 1
        kept = np.log(reserve(np.asarray(images, dtype=np.float64)))
        whole = np.logaddexp(np.logaddexp.reduce(wealth, axis=-1), kept[..., None])
        found: Array = (self.known + whole).min(axis=-1)
        return found


@lru_cache(maxsize=1024)
def bets(against: tuple[Candidate, ...]) -> Bets:
    """What is bet against some candidates.

    Raises:
        InvalidInput: A rate is not in (0, 1].
    """
    gains = [_gains(candidate.rate) for candidate in against]
    most = max(one.size for one, _ in gains)

    def stacked(rows: Iterable[Array]) -> Array:
        """Where there are fewer alternatives than elsewhere the last stands for several."""
        return np.stack([np.pad(row, (0, most - row.size), mode="edge") for row in rows])

    return Bets(
        one=stacked(one for one, _ in gains),
        zero=stacked(zero for _, zero in gains),
        known=np.array([candidate.log_e for candidate in against]),
    )


def reserve(images: Array) -> Array:
    """What is not bet yet after a number of images; it falls so slowly that some is always left."""
    left: Array = (1 - AT_START) / (1 + np.log1p(images / PACE))
    return left


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The evidence that one stream has given so far.

    Attributes:
        candidates: What the mean may be if nothing has changed.
        block: Images that may depend on each other, at most: bursts and duplicates. Counts are divided by it.
        images: Images so far, divided by `block`.
        wealth: [K, G], of each bet.
    """

    candidates: tuple[Candidate, ...]
    block: int = 1
    images: float = 0.0
    wealth: tuple[tuple[float, ...], ...]

    @classmethod
    def start(cls, *candidates: Candidate, block: int = 1) -> Self:
        """Before any image.

        Raises:
            InvalidInput: A rate is not in (0, 1], or the block is not at least 1.
        """
        if block < 1:
            raise InvalidInput(f"a block of {block} images", field="block", remedy="give at least 1")
        return cls(candidates=candidates, block=block, wealth=_rows(bets(candidates).start()))

    @property
    def sound(self) -> bool:
        """Whether it can go on: evidence that was stored may be damaged, or have other bets than these."""
        try:
            wealth, expected = np.array(self.wealth, dtype=np.float64), bets(self.candidates).start()
        except (ValueError, InvalidInput):  # rows of several lengths, or a rate that is none
            return False
        counted = self.block >= 1 and 0 <= self.images < math.inf
        return counted and wealth.shape == expected.shape and bool(np.isfinite(wealth).all())

    def after(self, n: float, total: float) -> Self:
        """With n more images.

        Args:
            n: Images since the last look, or the sum of their weights, each in [0, 1].
            total: The sum of their numbers, each in [0, 1] and times its weight.

        Raises:
            InvalidInput: The sum is not from 0 to n.
        """
        if not 0 <= total <= n < math.inf:
            raise InvalidInput(f"the sum of {n} numbers in [0, 1] cannot be {total}", field="total")
        if n == 0:
            return self
        more, ones = n / self.block, total / self.block
        wealth = bets(self.candidates).after(np.array(self.wealth), self.images, more, ones)
        return replace(self, images=self.images + more, wealth=_rows(wealth))

    @cached_property
    def e_value(self) -> float:
        """As a logarithm to base 10."""
        wealth, unfinished = np.array(self.wealth), self.block > 1
        found = bets(self.candidates).log_e(wealth, self.images, unfinished=unfinished)
        return float(found) / math.log(10)

    def at_most(self, e_value: float) -> Self:
        """Without the wealth above a limit, which is a logarithm to base 10 above 0.

        To give wealth away proves no less. Without it evidence of months would take months to fade.
        """
        wealth = np.array(self.wealth)
        limits = np.maximum(e_value * math.log(10) - bets(self.candidates).known, 0.0)
        above = np.maximum(np.logaddexp.reduce(wealth, axis=-1) - limits, 0.0)
        return replace(self, wealth=_rows(wealth - above[:, None])) if above.any() else self


def merged(e_values: Sequence[float]) -> float:
    """The mean of e-values, which is one too, however they depend on each other; logarithms to base 10."""
    natural = np.array(e_values) * math.log(10)
    return float(np.logaddexp.reduce(natural) - math.log(len(natural))) / math.log(10)


def _gains(rate: float) -> tuple[Array, Array]:
    """[G] and [G], as in `Bets`; against a rate of 1, which no mean exceeds, nothing is gained or lost."""
    if not 0 < rate <= 1:
        raise InvalidInput(f"a rate of {rate} is not in (0, 1]", field="rate")
    angle = 2 * math.asin(math.sqrt(rate))
    furthest = max(math.pi - angle, 0.0) / _NEAREST
    steps = np.arange(math.ceil(math.log(furthest, _RATIO))) if furthest > 1 else np.zeros(0)
    rates = np.sin((angle + _NEAREST * _RATIO**steps) / 2) ** 2
    rates = rates[(rates > rate) & (rates < 1)]
    if not rates.size:
        return np.zeros(1), np.zeros(1)
    return np.log(rates / rate), np.log1p(-rates) - math.log1p(-rate)


def _rows(wealth: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in wealth.tolist())


def _log_ways(count: int, n: int) -> Array:
    """[count + 1]: the logarithm of the number of ways to choose 0, 1, ... count of n."""
    steps = np.arange(count)
    return np.concatenate([[0.0], np.cumsum(np.log((n - steps) / (steps + 1)))])


def _check_sample(total: float, n: int, level: float) -> None:
    if not (n >= 1 and 0 <= total <= n):
        raise InvalidInput(f"{n} numbers in [0, 1] whose sum is {total} say nothing", field="total")
    if not 0 < level < 1:
        raise InvalidInput(f"a level of {level} is not between 0 and 1", field="level")


def _last(below: Callable[[float], bool], low: float) -> float:
    """The bound on a probability, from above, where a test tells whether a probability is below it."""
    high = 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if below(middle) else (low, middle)
    return high
