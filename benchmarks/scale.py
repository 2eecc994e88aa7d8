"""Throughput with 1, 10, 100 and 1,000 registered adapters, when all fit in memory and when a tenth does.

    python -m benchmarks.scale --quick

Rows per CPU second through a whole server in one process (names, bank, batcher, engine, combining), 32 requests
in flight, one image each. Half of the adapters are LoRA r=8, the others take turns; the one adapter that
all is compared with is a LoRA. Uniform traffic asks for every adapter equally often, Zipf traffic
for the k-th in proportion to k^-1.1.

throughput_1000_over_1: 1,000 that all fit, uniform traffic, over one adapter. throughput_tenth_fits: 1,000 of
which a tenth fits, Zipf traffic, over one adapter; what does not fit is read, verified and loaded again.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
from rich.table import Table

from benchmarks.adapters import backbone
from benchmarks.inprocess import InProcess, in_process
from benchmarks.interleave import Costs, costs, cpu_timed, speed_ratio
from benchmarks.report import emit, parser, progress
from benchmarks.stores import Shelf, shelf

METHODS = ["lora", "ssf", "lora", "bitfit", "lora", "vpt_deep", "lora", "repadapter"]
EXPONENT = 1.1
SHARE = 10
BANK_BYTES = 8 * 2**30

Draw = Callable[[Sequence[str], int], list[str]]


class Traffic:
    """Random names of adapters, another sequence each time."""

    def __init__(self, exponent: float) -> None:
        self._exponent, self._generator = exponent, np.random.default_rng(0)

    def __call__(self, names: Sequence[str], count: int) -> list[str]:
        weights = np.arange(1, len(names) + 1, dtype=np.float64) ** -self._exponent
        drawn = self._generator.choice(len(names), size=count, p=weights / weights.sum())
        return [names[i] for i in drawn]


TRAFFIC: dict[str, Draw] = {"uniform": Traffic(0.0), "zipf": Traffic(EXPONENT)}


def counts_up_to(most: int) -> list[int]:
    return [count for count in (1, 10, 100) if count < most] + [most]


def measure(found: Shelf, counts: Sequence[int], requests: int, rounds: int) -> tuple[Costs, dict[str, int]]:
    """CPU seconds of so many requests by variant, `COUNT TRAFFIC` or `tenth TRAFFIC`; bytes by server."""
    size = found.preprocess.image_size
    with ExitStack() as stack:

        def start(names: Sequence[str], bank_bytes: int) -> InProcess:
            settings = found.settings(bank_bytes=bank_bytes)
            server = stack.enter_context(in_process(settings, size))
            server.load(names)
            return server

        variants: dict[str, Callable[[], float]] = {}
        sizes = {}
        for count in counts:
            names = found.adapters[:count]
            progress(f"loading {count} adapters")
            server = start(names, BANK_BYTES)
            sizes[str(count)] = server.registered_bytes
            for label, draw in TRAFFIC.items():
                variants[f"{count} {label}"] = _asking(server, names, draw, requests)
        for label, draw in TRAFFIC.items():
            # The least recently used go, so the state before the first round is that of long traffic.
            server = start(draw(found.adapters, 4 * len(found.adapters)), sizes[str(counts[-1])] // SHARE)
            sizes[f"tenth {label}"] = server.registered_bytes
            variants[f"tenth {label}"] = _asking(server, found.adapters, draw, requests)
        return costs(variants, rounds=rounds, warmup=1, progress=progress), sizes


def _asking(server: InProcess, names: Sequence[str], draw: Draw, requests: int) -> Callable[[], float]:
    return cpu_timed(lambda: server.ask(draw(names, requests)))


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    flags.add_argument("--architecture", default="vit_small_patch16_224")
    flags.add_argument("--image-size", type=int, default=64)
    flags.add_argument("--adapters", type=int, default=1000, help="the most that are registered")
    flags.add_argument("--requests", type=int, default=256, help="of one variant in one round")
    flags.add_argument("--rounds", type=int)
    asked = flags.parse_args(given)
    rounds = asked.rounds or (3 if asked.quick else 15)
    vit, _ = backbone(asked.architecture, asked.image_size)
    counts = [1, asked.adapters] if asked.quick else counts_up_to(asked.adapters)
    progress(f"writing {asked.adapters} adapters")
    with shelf(vit, METHODS, asked.adapters) as found:
        taken, sizes = measure(found, counts, asked.requests, rounds)
    ratios = {name: speed_ratio(taken, name, "1 uniform") for name in taken}
    table = Table("registered", "rows / CPU s", "over 1 adapter", title=f"{asked.architecture}, {asked.image_size} px")
    for name, seconds in taken.items():
        table.add_row(name, f"{asked.requests / statistics.median(seconds):.1f}", f"{ratios[name]:.3f}")
    most = asked.adapters
    emit(
        "scale",
        [table],
        {
            "architecture": asked.architecture,
            "image_size": asked.image_size,
            "adapters": most,
            "requests": asked.requests,
            "rounds": rounds,
            "quick": asked.quick,
            "methods": ", ".join(dict.fromkeys(METHODS)),
            "throughput_1000_over_1": ratios[f"{most} uniform"],
            "throughput_tenth_fits": ratios["tenth zipf"],
            "throughput_1000_over_1_zipf": ratios[f"{most} zipf"],
            "throughput_tenth_fits_uniform": ratios["tenth uniform"],
            "over_1": ratios,
            "registered_bytes": sizes,
        },
    )


if __name__ == "__main__":
    main()
