"""Throughput with 1, 10, 100 and 1,000 registered adapters, when all fit in memory and when a tenth does.

    python -m benchmarks.scale --quick

Rows per CPU second through a whole server in one process (names to combining), ViT-S/16,
32 requests in flight of one image each. Half of the adapters are LoRA r=8, the others take turns; the one
adapter that all is compared with is a LoRA. Uniform traffic asks for every adapter equally often, Zipf
traffic for the k-th in proportion to k^-1.1.

throughput_1000_over_1: 1,000 that all fit, uniform traffic, over one adapter, at 224 px.
throughput_tenth_fits: 1,000 of which a tenth fits, Zipf traffic, over one adapter; what does not fit is read,
verified and loaded again. The same at 64 px, where overhead shows, and the other traffic: not with --quick.
In bf16 (`*_bf16`) the baseline is one adapter in bf16.
To reach: throughput_1000_over_1 0.95, throughput_1000_over_1_bf16 0.93, throughput_tenth_fits 0.85.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
from rich.table import Table

from benchmarks import precisions
from benchmarks.adapters import backbone
from benchmarks.estimate import Estimate
from benchmarks.inprocess import IN_FLIGHT, InProcess, in_process
from benchmarks.interleave import Costs, costs, cpu_timed, speed
from benchmarks.report import Figures, Value, emit, parser, progress, stop_on_terminate
from benchmarks.stores import Shelf, shelf
from petl_vit.precision import Precision

METHODS = ["lora", "ssf", "lora", "bitfit", "lora", "vpt_deep", "lora", "repadapter"]
EXPONENT = 1.1
SHARE = 10
HOST_BYTES = 8 * 2**30
UNIFORM, ZIPF, TENTH = "uniform", "zipf", "tenth"


class Traffic:
    """Random names of adapters, other ones each time: the k-th in proportion to k^-exponent."""

    def __init__(self, exponent: float) -> None:
        self._exponent, self._generator = exponent, np.random.default_rng(0)

    def draw(self, names: Sequence[str], count: int) -> list[str]:
        weights = np.arange(1, len(names) + 1, dtype=np.float64) ** -self._exponent
        drawn = self._generator.choice(len(names), size=count, p=weights / weights.sum())
        return [names[i] for i in drawn]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Adapters that are registered and traffic over them.

    Attributes:
        fits: All of them, or a tenth.
    """

    count: int
    fits: bool
    traffic: str

    def __str__(self) -> str:
        return f"{self.count if self.fits else TENTH} {self.traffic}"


def chosen(most: int, *, quick: bool) -> list[Variant]:
    """One adapter with uniform traffic is the first, the baseline."""
    one = Variant(count=1, fits=True, traffic=UNIFORM)
    needed = [
        one,
        Variant(count=most, fits=True, traffic=UNIFORM),
        Variant(count=most, fits=False, traffic=ZIPF),
    ]
    others = [
        Variant(count=count, fits=True, traffic=traffic)
        for count in (10, 100, most)
        for traffic in (UNIFORM, ZIPF)
        if count <= most
    ]
    tenth = Variant(count=most, fits=False, traffic=UNIFORM)
    return needed if quick else list(dict.fromkeys([*needed, *others, tenth]))


def measure(
    found: Shelf,
    variants: Sequence[Variant],
    precision: Precision,
    *,
    requests: int,
    rounds: int,
    in_flight: int,
) -> Costs:
    """CPU seconds of so many requests."""
    traffic = {UNIFORM: Traffic(0.0), ZIPF: Traffic(EXPONENT)}
    with ExitStack() as stack:
        servers: dict[tuple[int, bool, str], InProcess] = {}
        timed: dict[str, Callable[[], float]] = {}
        for variant in sorted(variants, key=lambda v: not v.fits):
            names, draw = found.adapters[: variant.count], traffic[variant.traffic].draw
            place = (variant.count, variant.fits, "" if variant.fits else variant.traffic)
            if place not in servers:
                progress(f"{precision}: loading: {variant}")
                whole = servers.get((variant.count, True, ""))
                room = HOST_BYTES if variant.fits or whole is None else whole.registered_bytes // SHARE
                servers[place] = stack.enter_context(_server(found, room, precision, in_flight))
                # The least recently used go, so what is in memory is what long traffic leaves there.
                servers[place].load(names if variant.fits else draw(names, len(names)))
            timed[str(variant)] = cpu_timed(partial(_ask, servers[place], draw, names, requests))
        return costs(timed, rounds=rounds, warmup=1, progress=progress)


def _server(
    found: Shelf, host_bytes: int, precision: Precision, in_flight: int
) -> AbstractContextManager[InProcess]:
    settings = found.settings(host_bytes=host_bytes, precision=precision.value)
    return in_process(settings, found.preprocess.image_size, in_flight=in_flight)


def _ask(
    server: InProcess, draw: Callable[[Sequence[str], int], list[str]], names: Sequence[str], requests: int
) -> None:
    server.ask(draw(names, requests))


def figures(over: Mapping[int, Mapping[str, Estimate]], most: int) -> Figures:
    """The keys of one precision.

    Args:
        over: Every variant's throughput over one adapter's, by image size, the large one first.
        most: The most adapters that are registered.
    """
    large, small = [*over.values(), {}][:2]
    everything, tenth = f"{most} {UNIFORM}", f"{TENTH} {ZIPF}"
    return {
        "throughput_1000_over_1": large[everything],
        "throughput_tenth_fits": large[tenth],
        "throughput_tenth_fits_uniform": large.get(f"{TENTH} {UNIFORM}"),
        "throughput_1000_over_1_64px": small.get(everything),
        "throughput_tenth_fits_64px": small.get(tenth),
        "over_1": large,
        "over_1_64px": small,
    }


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    precisions.add_flag(flags)
    flags.add_argument("--architecture", default="vit_small_patch16_224")
    flags.add_argument("--image-size", type=int, default=224)
    flags.add_argument("--small-image-size", type=int, default=64)
    flags.add_argument("--adapters", type=int, default=1000, help="the most that are registered")
    flags.add_argument("--requests", type=int, help="of one variant in one round")
    flags.add_argument("--rounds", type=int)
    flags.add_argument("--in-flight", type=int, default=IN_FLIGHT)
    asked = flags.parse_args(given)
    variants = chosen(asked.adapters, quick=asked.quick)
    sizes = [asked.image_size] if asked.quick else [asked.image_size, asked.small_image_size]
    requests = asked.requests or (32 if asked.quick else 64)
    rounds = asked.rounds or (5 if asked.quick else 8)
    over: dict[Precision, dict[int, dict[str, Estimate]]] = {
        precision: {} for precision in precisions.chosen(asked.precision)
    }
    tables = []
    for size in sizes:
        progress(f"{size} px: writing {asked.adapters} adapters")
        vit, _ = backbone(asked.architecture, size)
        # Small images are short work, so more of them go into a round.
        each = requests if size == asked.image_size else 4 * requests
        with shelf(vit, METHODS, asked.adapters) as found:
            for precision, of_size in over.items():
                taken = measure(
                    found, variants, precision, requests=each, rounds=rounds, in_flight=asked.in_flight
                )
                of_size[size] = {name: speed(taken, name, str(variants[0])) for name in taken}
                title = f"{asked.architecture}, {size} px, {precision}"
                table = Table("registered", "rows / CPU s", "over 1 adapter", title=title)
                for name, seconds in taken.items():
                    table.add_row(name, f"{each / statistics.median(seconds):.1f}", str(of_size[size][name]))
                tables.append(table)
    asked_for: dict[str, Value] = {
        "architecture": asked.architecture,
        "image_size": asked.image_size,
        "quick": asked.quick,
        "adapters": asked.adapters,
        "methods": ", ".join(dict.fromkeys(METHODS)),
    }
    found_figures = {precision: figures(sizes, asked.adapters) for precision, sizes in over.items()}
    emit("scale", tables, asked_for | precisions.figures(found_figures))


if __name__ == "__main__":
    stop_on_terminate()
    main()
