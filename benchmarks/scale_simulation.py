"""How many replicas a load needs: a simulation in which you put in your own numbers.

    python -m benchmarks.scale_simulation --images-per-day 10e6 --adapters 10000 --row-ms 67 --cores 4

Servers in simulated time (SimPy), at the peak of the day: requests of one image arrive at random, the k-th
adapter in proportion to k^-exponent. A replica runs what waits in batches, of `--batch-ms` and `--row-ms` for
each row; it holds `--memory-gib` of adapters in memory and `--disk-gib` on disk, and fetches the others from
the store. The smallest fleet is sought that is no busier than `--busy` and whose 99th percentile keeps
`--p99-ms`, for requests that go to any replica (random) and for those that prefer replicas which hold their
adapter (affinity). One more replica is for one that fails or is replaced.

Batches have `--max-batch-rows`, or as many as take `--max-batch-ms`, but 8 at least, as in a server.
The defaults are ViT-S/16 at 224 px in bf16 as measured on one core of an AMD EPYC (docs/scale.md); times of
rows are divided by `--cores`. `--fetch-ms` is an assumption: put in what your store takes.

replicas_random, replicas_affinity: the smallest fleets, without the one more; null where none of up to
`--most` keeps it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.fleet import Outcome, Placement, Replica, Traffic, simulate
from benchmarks.report import Value, emit, parser, progress, stop_on_terminate
from serving.engine.batcher import EFFICIENT_ROWS

BATCH_MS, ROW_MS = 13.0, 67.0
"""A forward of ViT-S/16 at 224 px in bf16 with LoRA adapters, one core of an AMD EPYC (Genoa)."""
DAY_S = 86_400
WARM_S = 5.0
GIB_IN_MIB = 1024


@dataclass(frozen=True, kw_only=True)
class Try:
    """A fleet, and what became of the peak's requests."""

    placement: Placement
    replicas: int
    outcome: Outcome


def sought(
    replica: Replica, traffic: Traffic, placement: Placement, *, p99_ms: float, most: int, busy: float = 1.0
) -> tuple[list[Try], Try | None]:
    """All fleets that were tried, and the smallest that keeps the bound; None where none does.

    Args:
        busy: The share of what replicas can do at most that the traffic may take.
    """
    least = max(1, math.ceil(traffic.per_s / replica.rows_per_s / busy))
    tries: list[Try] = []

    def keeps(count: int) -> bool:
        progress(f"{placement}: {count} replicas")
        tries.append(
            Try(placement=placement, replicas=count, outcome=simulate(replica, count, traffic, placement))
        )
        return bool(tries[-1].outcome.waits_ms) and tries[-1].outcome.percentile(99) <= p99_ms

    high = least
    while not keeps(high):
        if high >= most:
            return tries, None
        high = min(most, high + max(1, high // 4))
    low = max([each.replicas for each in tries if each.replicas < high], default=least - 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return tries, next(each for each in tries if each.replicas == high)


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    flags.add_argument("--images-per-day", type=float, default=10e6)
    flags.add_argument("--peak", type=float, default=3.0, help="busiest minutes over the mean of the day")
    flags.add_argument("--members", type=float, default=1.0, help="rows of a request, on average")
    flags.add_argument("--adapters", type=int, default=10_000)
    flags.add_argument("--exponent", type=float, default=1.0, help="0: all asked equally often")
    flags.add_argument("--adapter-mib", type=float, default=0.6)
    flags.add_argument("--cores", type=float, default=4.0, help="of a replica")
    flags.add_argument("--batch-ms", type=float, default=BATCH_MS, help="of a batch, whatever its rows")
    flags.add_argument("--row-ms", type=float, default=ROW_MS, help="of a row, on one core")
    flags.add_argument("--max-batch-rows", type=int, default=32)
    flags.add_argument("--max-batch-ms", type=float, default=200.0, help="of a batch of more than 8 rows")
    flags.add_argument("--memory-gib", type=float, default=2.0, help="of adapters (--host-bytes)")
    flags.add_argument("--disk-gib", type=float, default=10.0, help="of adapters, on a replica's disk")
    flags.add_argument("--load-ms", type=float, default=4.0, help="from disk to memory")
    flags.add_argument("--fetch-ms", type=float, default=100.0, help="from the store")
    flags.add_argument("--p99-ms", type=float, default=500.0, help="that the fleet must keep")
    flags.add_argument(
        "--busy", type=float, default=0.8, help="share of what replicas can do that the peak may take"
    )
    flags.add_argument("--most", type=int, default=500, help="replicas that are tried")
    flags.add_argument("--seconds", type=float, help="of the peak that are simulated")
    asked = flags.parse_args(given)
    replica, traffic = _replica(asked), _traffic(asked)
    tries: list[Try] = []
    best: dict[Placement, Try | None] = {}
    for placement in Placement:
        found, best[placement] = sought(
            replica, traffic, placement, p99_ms=asked.p99_ms, most=asked.most, busy=asked.busy
        )
        tries += found
    emit(
        "scale_simulation",
        [_table(tries, traffic)],
        figures(asked, replica, traffic, best),
        packages=("simpy",),
    )


def _replica(asked: Any) -> Replica:
    per_gib = GIB_IN_MIB / asked.adapter_mib
    batch_ms, row_ms = asked.batch_ms / asked.cores, asked.row_ms / asked.cores
    in_time = int((asked.max_batch_ms - batch_ms) / max(row_ms, 1e-3))
    return Replica(
        batch_ms=batch_ms,
        row_ms=row_ms,
        max_batch_rows=min(asked.max_batch_rows, max(EFFICIENT_ROWS, in_time)),
        memory=max(1, int(asked.memory_gib * per_gib)),
        disk=max(1, int(asked.disk_gib * per_gib)),
        load_ms=asked.load_ms,
        fetch_ms=asked.fetch_ms,
    )


def _traffic(asked: Any) -> Traffic:
    seconds = asked.seconds or (15.0 if asked.quick else 60.0)
    return Traffic(
        per_s=asked.images_per_day * asked.members * asked.peak / DAY_S,
        adapters=asked.adapters,
        exponent=asked.exponent,
        seconds=seconds + WARM_S,
        warm_s=WARM_S,
        warm_requests=50 * asked.adapters,
    )


def figures(
    asked: Any, replica: Replica, traffic: Traffic, best: dict[Placement, Try | None]
) -> dict[str, Value]:
    """The keys."""
    given = ("images_per_day", "peak", "members", "adapters", "exponent", "p99_ms", "busy", "quick")
    found: dict[str, Value] = {name: getattr(asked, name) for name in given}
    found |= {
        "cores_of_a_replica": asked.cores,
        "rows_per_s_at_peak": traffic.per_s,
        "rows_per_s_of_a_replica": replica.rows_per_s,
        "adapters_in_memory": replica.memory,
        "adapters_on_disk": replica.disk,
        "store_gib": asked.adapters * asked.adapter_mib / GIB_IN_MIB,
    }
    for placement, each in best.items():
        found[f"replicas_{placement}"] = None if each is None else each.replicas
        if each is not None:
            found[f"{placement}_at_its_best"] = {
                "p50_ms": each.outcome.percentile(50),
                "p99_ms": each.outcome.percentile(99),
                "busiest": max(each.outcome.busy),
                "in_memory": each.outcome.share("memory"),
                "store_reads_per_s": each.outcome.loads["store"] / (traffic.seconds - traffic.warm_s),
            }
    return found


def _table(tries: Sequence[Try], traffic: Traffic) -> Table:
    title = f"{traffic.per_s:.0f} rows/s at the peak, {traffic.adapters:,} adapters"
    shown = Table(
        "placement", "replicas", "p50 ms", "p99 ms", "busy", "in memory", "store reads/s", title=title
    )
    for each in sorted(tries, key=lambda each: (each.placement, each.replicas)):
        outcome = each.outcome
        waits = [outcome.percentile(percent) for percent in (50, 99)] if outcome.waits_ms else [math.inf] * 2
        shown.add_row(
            str(each.placement),
            str(each.replicas),
            *(f"{wait:,.0f}" for wait in waits),
            f"{sum(outcome.busy) / len(outcome.busy):.0%}",
            f"{outcome.share('memory'):.1%}",
            f"{outcome.loads['store'] / (traffic.seconds - traffic.warm_s):.1f}",
        )
    return shown


if __name__ == "__main__":
    stop_on_terminate()
    main()
