"""A hundred tasks on one backbone: against a copy of it for each group of them, and without fairness.

    python -m benchmarks.tenants --quick

ViT-B/16 at 64 px and 100 tasks, each with a LoRA adapter. The k-th asks in proportion to 1/k, in bursts at
four times its mean rate; weights are 4, 2 and 1 in turns, whatever a task asks for. The candidates, all of
them `corolla serve` over gRPC with small JPEGs: one server for all tasks; ten servers, each with a copy of
the backbone and one thread for the ten tasks of its group, which are dealt out as evenly as can be, once with
an equal part of the machine for each (in slices of 20 ms, as a limit of CPU does) and once free to use any
core; and one server whose queue is in order of arrival. They take turns under the same arrivals, in an open
loop: a latency counts from when the call was due. The load is a share of what the first one answers when all
calls come at once (`capacity_per_s`).

p99_over_partitioned: 99th percentile of the latency, one server over copies in their parts of the machine, at
the highest load; p99_over_copies: over copies that share the machine freely.
p99_light_over_unfair: the same over the queue in order, of tasks that ask for less than their weight's due.
tasks_per_gib_over_copies: tasks for a GiB of memory (PSS, under load), one server over copies.
To reach: p99_over_partitioned 0.2 at most, p99_light_over_unfair 0.67 at most, tasks_per_gib_over_copies 6.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from benchmarks.adapters import backbone
from benchmarks.estimate import Estimate, half_range
from benchmarks.pictures import jpeg
from benchmarks.report import Value, emit, parser, progress, stop_on_terminate
from benchmarks.tenants.calls import capacity, latencies
from benchmarks.tenants.servers import COPIES, PARTITION, SHARED, UNFAIR, Variant, variants
from benchmarks.tenants.store import store_of
from benchmarks.tenants.workload import Tenant, arrivals, groups, tenants

EXPONENT = 1.0
BURST = 4.0
IMAGES = 16
WIDTH, HEIGHT = 100, 75


@dataclass(frozen=True, kw_only=True)
class Waits:
    """Latencies at one load, seconds, by variant and round; and which of them are of light tasks."""

    of: Mapping[str, list[list[float]]]
    light: list[list[bool]]

    def percentile(self, name: str, percent: float, *, light: bool = False) -> float:
        """Of all rounds together."""
        return float(np.percentile(np.concatenate(self._rounds(name, light=light)), percent))

    def ratio(self, name: str, over: str, *, light: bool = False) -> Estimate:
        """The 99th percentile of one over that of another, and how much that varies from round to round."""
        pairs = zip(self._rounds(name, light=light), self._rounds(over, light=light), strict=True)
        each = [float(np.percentile(one, 99) / np.percentile(other, 99)) for one, other in pairs]
        value = self.percentile(name, 99, light=light) / self.percentile(over, 99, light=light)
        return Estimate(value=value, spread=half_range(each))

    def _rounds(self, name: str, *, light: bool) -> list[list[float]]:
        return [
            [wait for wait, small in zip(waits, small_ones, strict=True) if small or not light]
            for waits, small_ones in zip(self.of[name], self.light, strict=True)
        ]


def measure(
    found: Mapping[str, Variant],
    tasks: Sequence[Tenant],
    images: Sequence[bytes],
    rate: float,
    *,
    seconds: float,
    rounds: int,
) -> Waits:
    """All variants in turns under the same arrivals, other ones in each round."""
    waits: dict[str, list[list[float]]] = {name: [] for name in found}
    light = []
    for number in range(rounds):
        due = arrivals(tasks, max(1, round(rate * seconds)), seconds, burst=BURST, seed=number)
        light.append([tasks[task].light for _, task in due])
        for name in list(found)[number % len(found) :] + list(found)[: number % len(found)]:
            progress(f"{rate:.0f} calls/s, round {number + 1} of {rounds}: {name}")
            waits[name].append(latencies(found[name], tasks, images, due))
    return Waits(of=waits, light=light)


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    flags.add_argument("--architecture", default="vit_base_patch16_224")
    flags.add_argument("--image-size", type=int, default=64)
    flags.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    flags.add_argument("--tasks", type=int, default=100)
    flags.add_argument("--groups", type=int, default=10, help="of tasks; each has a copy of the backbone")
    flags.add_argument("--threads", type=int, default=2, help="of a server for all tasks")
    flags.add_argument("--loads", default="0.5,0.7,0.85", help="shares of the capacity, the highest last")
    flags.add_argument("--seconds", type=float, help="of one round of one candidate")
    flags.add_argument("--rounds", type=int)
    flags.add_argument("--requests", type=int, default=600, help="that measure the capacity")
    asked = flags.parse_args(given)
    seconds = asked.seconds or (10.0 if asked.quick else 20.0)
    rounds = asked.rounds or (2 if asked.quick else 5)
    loads = [float(load) for load in asked.loads.split(",")]
    tasks = tenants(asked.tasks, EXPONENT)
    images = [jpeg(seed, WIDTH, HEIGHT) for seed in range(IMAGES)]
    progress(f"writing {asked.tasks} tasks")
    vit, _ = backbone(asked.architecture, asked.image_size)
    dealt = groups(tasks, asked.groups)
    with (
        store_of(vit, tasks) as store,
        variants(store, dealt, threads=asked.threads, precision=asked.precision) as running,
    ):
        rates = {}
        for name, variant in running.items():
            progress(f"capacity: {name}")
            capacity(variant, tasks, images, max(asked.tasks * 3, asked.requests // 2))  # loads adapters
            rates[name] = capacity(variant, tasks, images, asked.requests)
        waits = {
            load: measure(running, tasks, images, load * rates[SHARED], seconds=seconds, rounds=rounds)
            for load in (loads[-1:] if asked.quick else loads)
        }
        memory = {name: variant.memory_bytes for name, variant in running.items()}
    emit("tenants", _tables(waits, rates, memory), _asked(asked, tasks) | figures(waits, rates, memory))


def figures(
    waits: Mapping[float, Waits], rates: Mapping[str, float], memory: Mapping[str, int]
) -> dict[str, Value]:
    """The keys.

    Args:
        waits: By load, the highest last.
        rates: Calls a second, by variant.
        memory: Bytes, by variant.
    """
    load, highest = list(waits.items())[-1]
    return {
        "p99_over_partitioned": highest.ratio(SHARED, PARTITION),
        "p99_over_copies": highest.ratio(SHARED, COPIES),
        "p99_light_over_unfair": highest.ratio(SHARED, UNFAIR, light=True),
        "tasks_per_gib_over_copies": memory[COPIES] / memory[SHARED],
        "load": load,
        "p99_over_partitioned_by_load": {
            str(at): each.ratio(SHARED, PARTITION) for at, each in waits.items()
        },
        "p99_over_copies_by_load": {str(at): each.ratio(SHARED, COPIES) for at, each in waits.items()},
        "p99_light_over_unfair_by_load": {
            str(at): each.ratio(SHARED, UNFAIR, light=True) for at, each in waits.items()
        },
        "p99_all_over_unfair": highest.ratio(SHARED, UNFAIR),
        "capacity_per_s": dict(rates),
        "memory_mib": {name: size / 2**20 for name, size in memory.items()},
    }


def _asked(asked: "object", tasks: Sequence[Tenant]) -> dict[str, Value]:
    names = ("architecture", "image_size", "precision", "quick", "tasks", "groups")
    return {name: getattr(asked, name) for name in names} | {
        "light_tasks": sum(tenant.light for tenant in tasks),
        "light_share": sum(tenant.demand for tenant in tasks if tenant.light),
    }


def _tables(
    waits: Mapping[float, Waits], rates: Mapping[str, float], memory: Mapping[str, int]
) -> list[Table]:
    whole = Table("candidate", "calls/s at most", "memory, MiB (PSS)")
    for name, rate in rates.items():
        whole.add_row(name, f"{rate:.1f}", f"{memory[name] / 2**20:,.0f}")
    by_load = Table("load", "candidate", "p50 ms", "p99 ms", "p99 ms of light tasks")
    for load, of_load in waits.items():
        for name in of_load.of:
            shown = (
                of_load.percentile(name, 50),
                of_load.percentile(name, 99),
                of_load.percentile(name, 99, light=True),
            )
            by_load.add_row(f"{load:g}", name, *(f"{1000 * seconds:,.0f}" for seconds in shown))
    return [whole, by_load]


if __name__ == "__main__":
    stop_on_terminate()
    main()
