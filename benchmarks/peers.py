"""Eight LoRA adapters for 32 images: our mixed batch and server against what else can answer for them.

    python -m benchmarks.peers --quick

In process: HF PEFT's `adapter_names`, eight merged timm models, and one adapter at a time through our own
engine (what servers with a switchable adapter come to), as CPU time of one batch of 32 rows, interleaved.
Served (not with --quick): LitServe with the eight merged models in one worker, TorchServe with eight models,
and ours, as CPU time of each server's process tree under the same JPEGs, 32 requests in flight, in
alternating phases, every forward on one thread. Each is checked to give our results before it is timed.

over_X: how much faster ours is, median over paired rounds. over_copies_fp32: the merged models, in process.
over_X_bf16: everybody in bf16, in process; of ours the frozen products are. With both precisions the quick
run may take longer than two minutes. To reach: over_copies_fp32 0.95, over_other_peers_fp32 1, over_best_peer
1.7, memory_over_copies 0.25 at most.
over_other_peers_fp32: the least of all others. over_best_peer: the least of all, ours at --precision auto.
memory_over_copies: backbone and adapters over eight models, the larger of account and resident memory.
"""

import statistics
from collections.abc import Sequence

from rich.table import Table

from benchmarks import precisions
from benchmarks.interleave import Costs, speed
from benchmarks.peers_inside import candidates
from benchmarks.peers_inside.candidates import AUTO, COPIES, GROUPED, OURS, PEFT, PLAIN, ROWS
from benchmarks.peers_inside.footprint import ours_over_copies
from benchmarks.peers_served import phases
from benchmarks.peers_served.servers import LITSERVE, TORCHSERVE
from benchmarks.report import Figures, Value, emit, parser, progress, stop_on_terminate
from petl_vit.precision import Precision


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    precisions.add_flag(flags)
    flags.add_argument("--architecture", default="vit_small_patch16_224")
    flags.add_argument("--image-size", type=int, default=224)
    flags.add_argument("--small-image-size", type=int, default=64)
    flags.add_argument("--adapters", type=int, default=8)
    flags.add_argument("--rounds", type=int)
    flags.add_argument("--requests", type=int, default=64, help="of one served phase")
    asked = flags.parse_args(given)
    architecture, adapters = asked.architecture, asked.adapters
    rounds = asked.rounds or (3 if asked.quick else 10)
    measured = precisions.chosen(asked.precision)
    large: dict[Precision, Costs] = {}
    small: dict[Precision, Costs] = {}
    tables = []
    for precision in measured:
        progress(f"in process, {precision}")
        auto = precision is Precision.FP32 and Precision.BF16 in measured
        for size, taken, often in (
            (asked.image_size, large, rounds),
            (asked.small_image_size, small, 3 * rounds),
        ):
            taken[precision] = candidates.measure(
                architecture, size, precision, adapters=adapters, rounds=often, auto=auto
            )
            tables.append(_table(f"{ROWS} rows, {size} px, in process, {precision}", taken[precision]))
    progress("memory")
    held = ours_over_copies(architecture, asked.image_size, adapters)
    served = None
    if not asked.quick:
        served = phases.measure(
            architecture, asked.image_size, adapters=adapters, requests=asked.requests, rounds=rounds
        )
        tables.append(_table(f"one image, {asked.image_size} px, served", served.taken))
    asked_for: dict[str, Value] = {
        "architecture": architecture,
        "image_size": asked.image_size,
        "quick": asked.quick,
    }
    inside = {precision: in_process(large[precision], small[precision]) for precision in measured}
    best = best_peers(large.get(Precision.FP32), served.taken if served is not None else {})
    memory: dict[str, Value] = {
        "memory_over_copies": max(held.values()),
        "memory_over_copies_account": held["account"],
        "memory_over_copies_rss": held["rss"],
        "served_private_bytes": served.private_bytes if served is not None else None,
    }
    emit("peers", tables, asked_for | best | precisions.figures(inside) | memory, packages=("peft",))


def in_process(large: Costs, small: Costs) -> Figures:
    """The keys of one precision, everybody in it.

    Args:
        large, small: At 224 and 64 px.
    """
    return {
        "over_copies_fp32": speed(large, OURS, COPIES),
        "over_peft_fp32": speed(large, OURS, PEFT),
        "over_grouped_fp32": speed(large, OURS, GROUPED),
        "over_plain_fp32": speed(large, OURS, PLAIN),
        "over_copies_fp32_64px": speed(small, OURS, COPIES),
        "over_peft_fp32_64px": speed(small, OURS, PEFT),
    }


def best_peers(large: Costs | None, theirs: Costs) -> dict[str, Value]:
    """The keys about all peers in fp32, also against ours in bf16; null where fp32 was not measured.

    Args:
        large: In process, at 224 px.
        theirs: The served ones.
    """
    if large is None:
        names = ["over_other_peers_fp32", "over_best_peer_fp32", "over_best_peer"]
        names += ["over_litserve_fp32", "over_torchserve_fp32"]
        return {**dict.fromkeys(names), "over_best_peer_reason": precisions.NOT_ASKED}
    others = dict.fromkeys((PEFT, GROUPED), large)
    others |= {name: theirs for name in (LITSERVE, TORCHSERVE) if name in theirs}
    everyone = others | {COPIES: large}
    over = {name: speed(taken, OURS, name) for name, taken in everyone.items()}
    auto = None
    if AUTO in large:
        auto = min(speed(taken, AUTO, name) for name, taken in everyone.items() if AUTO in taken)
    return {
        "over_other_peers_fp32": min(over[name] for name in others),
        "over_best_peer_fp32": min(over.values()),
        "over_best_peer": auto,
        "over_best_peer_reason": None if auto is not None else precisions.reason(Precision.BF16),
        "over_litserve_fp32": over.get(LITSERVE),
        "over_torchserve_fp32": over.get(TORCHSERVE),
    }


def _table(title: str, taken: Costs) -> Table:
    table = Table("candidate", "CPU ms (median)", "corolla over it", title=title)
    for name, seconds in taken.items():
        median = 1000 * statistics.median(seconds)
        table.add_row(name, f"{median:.1f}", str(speed(taken, OURS, name)))
    return table


if __name__ == "__main__":
    stop_on_terminate()
    main()
