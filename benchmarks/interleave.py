"""Times variants of the same work side by side: round after round, each once, in changing order."""

import random
import time
from collections.abc import Callable, Mapping

from benchmarks.estimate import Estimate

Costs = dict[str, list[float]]
"""What every variant cost in every round; rounds are paired."""


def cpu_seconds(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2, seed: int = 0
) -> Costs:
    """CPU seconds, of all threads of this process, of every variant in every round."""
    timed = {name: cpu_timed(run) for name, run in variants.items()}
    return costs(timed, rounds=rounds, warmup=warmup, seed=seed)


def costs(
    variants: Mapping[str, Callable[[], float]],
    *,
    rounds: int,
    warmup: int = 2,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> Costs:
    """The cost of every variant in every round, for variants that measure it themselves."""
    for _ in range(warmup):
        for run in variants.values():
            run()
    taken: Costs = {name: [] for name in variants}
    order, shuffle = list(variants), random.Random(seed).shuffle
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        shuffle(order)
        for name in order:
            taken[name].append(variants[name]())
    return taken


def speed(taken: Mapping[str, list[float]], variant: str, baseline: str) -> Estimate:
    """How fast a variant is relative to a baseline, over paired rounds: above 1 is faster."""
    pairs = zip(taken[baseline], taken[variant], strict=True)
    return Estimate.of([base / ours for base, ours in pairs])


def speed_ratio(taken: Mapping[str, list[float]], variant: str, baseline: str) -> float:
    """The same without its spread."""
    return speed(taken, variant, baseline).value


def cpu_timed(run: Callable[[], object]) -> Callable[[], float]:
    def timed() -> float:
        started = time.process_time()
        run()
        return time.process_time() - started

    return timed
