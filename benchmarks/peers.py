"""Eight LoRA adapters for 32 images: our mixed batch and server against what else can answer for them.

    python -m benchmarks.peers --quick

In process: HF PEFT's `adapter_names`, eight merged timm models, and one adapter at a time through our own
engine (what servers with a switchable adapter come to), as CPU time of one batch of 32 rows, interleaved.
Served (not with --quick): LitServe with the eight merged models in one worker, TorchServe with eight models,
and ours, as CPU time of each server's process tree under the same JPEGs, 32 requests in flight, in
alternating phases, every forward on one thread. Each is checked to give our results before it is timed.

over_X: how much faster ours is, median over paired rounds. over_copies_fp32: the merged models, in process.
over_other_peers_fp32: the least of all others. over_best_peer: the least of all, ours at --precision auto.
memory_over_copies: backbone and adapters over eight models, the larger of account and resident memory.
"""

import statistics
from collections.abc import Mapping, Sequence

from rich.table import Table

from benchmarks.backends import NO_BF16
from benchmarks.interleave import Costs, speed_ratio
from benchmarks.peers_inside import candidates
from benchmarks.peers_inside.candidates import AUTO, COPIES, GROUPED, OURS, PEFT, PLAIN, ROWS
from benchmarks.peers_inside.footprint import ours_over_copies
from benchmarks.peers_served import phases
from benchmarks.peers_served.phases import ServedCosts
from benchmarks.peers_served.servers import LITSERVE, TORCHSERVE
from benchmarks.report import Figure, emit, parser, progress, stop_on_terminate


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    flags.add_argument("--architecture", default="vit_small_patch16_224")
    flags.add_argument("--image-size", type=int, default=224)
    flags.add_argument("--small-image-size", type=int, default=64)
    flags.add_argument("--adapters", type=int, default=8)
    flags.add_argument("--rounds", type=int)
    flags.add_argument("--requests", type=int, default=64, help="of one served phase")
    asked = flags.parse_args(given)
    architecture, adapters = asked.architecture, asked.adapters
    rounds = asked.rounds or (2 if asked.quick else 10)
    progress("in process")
    large = candidates.measure(architecture, asked.image_size, adapters=adapters, rounds=rounds)
    small = candidates.measure(architecture, asked.small_image_size, adapters=adapters, rounds=2 * rounds)
    progress("memory")
    held = ours_over_copies(architecture, asked.image_size, adapters)
    served = None
    if not asked.quick:
        served = phases.measure(
            architecture, asked.image_size, adapters=adapters, requests=asked.requests, rounds=rounds
        )
    tables = [
        _table(f"{ROWS} rows, {asked.image_size} px, in process", large),
        _table(f"{ROWS} rows, {asked.small_image_size} px, in process", small),
    ]
    if served is not None:
        tables.append(_table(f"one image, {asked.image_size} px, served", served.taken))
    asked_for = {"architecture": architecture, "image_size": asked.image_size, "quick": asked.quick}
    emit("peers", tables, asked_for | figures(large, small, held, served), packages=("peft",))


def figures(
    large: Costs, small: Costs, held: Mapping[str, float], served: ServedCosts | None
) -> dict[str, Figure | Mapping[str, Figure]]:
    """The keys of the JSON line.

    Args:
        large, small: In process, at 224 and 64 px.
        held: Memory over the copies'.
    """
    theirs = served.taken if served is not None else {}
    others = dict.fromkeys((PEFT, GROUPED), large)
    others |= {name: theirs for name in (LITSERVE, TORCHSERVE) if name in theirs}
    over = {name: speed_ratio(taken, OURS, name) for name, taken in others.items()}
    copies = speed_ratio(large, OURS, COPIES)
    everyone = others | {COPIES: large}
    auto = None
    if AUTO in large:
        auto = min(speed_ratio(taken, AUTO, name) for name, taken in everyone.items())
    return {
        "over_copies_fp32": copies,
        "over_other_peers_fp32": min(over.values()),
        "over_best_peer": auto,
        "over_best_peer_reason": NO_BF16 if auto is None else None,
        "over_best_peer_fp32": min(copies, *over.values()),
        "memory_over_copies": max(held.values()),
        "memory_over_copies_account": held["account"],
        "memory_over_copies_rss": held["rss"],
        "over_peft_fp32": over[PEFT],
        "over_peft_fp32_64px": speed_ratio(small, OURS, PEFT),
        "over_copies_fp32_64px": speed_ratio(small, OURS, COPIES),
        "over_grouped_fp32": over[GROUPED],
        "over_plain_fp32": speed_ratio(large, OURS, PLAIN),
        "over_litserve_fp32": over.get(LITSERVE),
        "over_torchserve_fp32": over.get(TORCHSERVE),
        "served_private_bytes": served.private_bytes if served is not None else None,
    }


def _table(title: str, taken: Costs) -> Table:
    table = Table("candidate", "CPU ms (median)", "corolla over it", title=title)
    for name, seconds in taken.items():
        median = 1000 * statistics.median(seconds)
        table.add_row(name, f"{median:.1f}", f"{speed_ratio(taken, OURS, name):.3f}")
    return table


if __name__ == "__main__":
    stop_on_terminate()
    main()
