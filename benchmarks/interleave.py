"""Times variants of the same work side by side: round after round, each once, in changing order."""

import random
import statistics
import time
from collections.abc import Callable, Mapping


def cpu_seconds(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2, seed: int = 0
) -> dict[str, list[float]]:
    """CPU seconds of every variant in every round; the rounds of all variants are paired."""
    for _ in range(warmup):
        for run in variants.values():
            run()
    taken: dict[str, list[float]] = {name: [] for name in variants}
    order, shuffle = list(variants), random.Random(seed).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            started = time.process_time()
            variants[name]()
            taken[name].append(time.process_time() - started)
    return taken


def speed_ratio(taken: Mapping[str, list[float]], variant: str, baseline: str) -> float:
    """How fast a variant is relative to a baseline: above 1 is faster. Median over paired rounds."""
    pairs = zip(taken[baseline], taken[variant], strict=True)
    return statistics.median(base / ours for base, ours in pairs)
