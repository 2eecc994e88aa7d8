"""Tasks of unequal weight that ask unequally often, in bursts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WEIGHTS = (4.0, 2.0, 1.0)
"""What tasks are entitled to, taking turns: it does not depend on how much they ask for."""
ON_S = 0.5
"""Mean length of a burst."""


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """A task.

    Attributes:
        demand: Its share of all requests.
        due: Its share of a busy engine, by its weight.
    """

    task: str
    weight: float
    demand: float
    due: float

    @property
    def light(self) -> bool:
        """Whether it asks for less than it is entitled to."""
        return self.demand < self.due


def tenants(count: int, exponent: float) -> list[Tenant]:
    """So many tasks; the k-th asks in proportion to k^-exponent."""
    demands = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    demands /= demands.sum()
    weights = [WEIGHTS[number % len(WEIGHTS)] for number in range(count)]
    return [
        Tenant(task=f"task-{number:03}", weight=weight, demand=float(demand), due=weight / sum(weights))
        for number, (weight, demand) in enumerate(zip(weights, demands, strict=True))
    ]


def groups(tasks: Sequence[Tenant], count: int) -> list[list[Tenant]]:
    """Tasks dealt out so that groups are asked as evenly as can be: the best that a partition can do."""
    dealt: list[list[Tenant]] = [[] for _ in range(count)]
    for tenant in sorted(tasks, key=lambda tenant: -tenant.demand):
        min(dealt, key=lambda group: (sum(each.demand for each in group), len(group))).append(tenant)
    return dealt


def arrivals(
    tasks: Sequence[Tenant], requests: int, seconds: float, *, burst: float, seed: int
) -> list[tuple[float, int]]:
    """When whom is asked, in order of time: exactly so many requests.

    Each task asks in bursts, at `burst` times its mean rate and then not at all, so that the rate of all
    goes up and down, too. Bursts of different tasks are independent.

    Args:
        burst: At least 1; 1 is a Poisson process.
    """
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(requests, [tenant.demand for tenant in tasks])
    found = [
        (float(time), number)
        for number, count in enumerate(counts)
        for time in _times(int(count), seconds, burst, generator)
    ]
    return sorted(found)


def _times(count: int, seconds: float, burst: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """So many times between 0 and `seconds`, evenly over the time in which a task is on."""
    if burst <= 1:
        return generator.uniform(0, seconds, count)
    spells = int(4 * seconds / (ON_S * burst)) + 8
    on = generator.exponential(ON_S, spells)
    off = generator.exponential(ON_S * (burst - 1), spells)
    starts = np.cumsum(on + off) - on - generator.uniform(0, ON_S * burst)
    stops = starts + on
    inside = (stops > 0) & (starts < seconds)
    starts, stops = starts[inside].clip(0), stops[inside].clip(None, seconds)
    if not len(starts):  # it is never on in this time, so its few requests come together
        starts = generator.uniform(0, seconds * (1 - 1e-3), 1)
        stops = starts + min(ON_S, seconds * 1e-3)
    at = generator.uniform(0, (stops - starts).sum(), count)
    passed = np.concatenate([[0.0], np.cumsum(stops - starts)])
    spell = np.searchsorted(passed, at, side="right").clip(1, len(starts)) - 1
    return np.asarray(starts[spell] + at - passed[spell])
