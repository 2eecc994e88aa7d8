"""What each method costs at inference: a batch under it alone, against timm's plain forward.

    python -m benchmarks.methods --quick

Speed relative to timm's plain forward of the same rows, CPU time, interleaved; 1 is free.
vpt_deep_50_over_plain: VPT-Deep with 50 prompts a block. slowest_over_plain: the slowest of all but
VPT-Shallow (which carries tokens) and full. In bf16 (`*_bf16`) all of timm's forward is in bf16; of ours the
frozen products are.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from rich.table import Table

from benchmarks import precisions
from benchmarks.adapters import adapter, backbone, plain_forward
from benchmarks.estimate import Estimate
from benchmarks.interleave import Costs, cpu_seconds, speed
from benchmarks.report import Figures, Value, emit, parser, progress
from petl_vit import methods
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.precision import Precision

ROWS = 16
PLAIN = "timm, no adapter"
_LEFT_OUT = {"vpt_shallow", "full", "selective"}


def measure(architecture: str, image_size: int, precision: Precision, rounds: int) -> Costs:
    """CPU seconds of timm's forward and of every method's."""
    vit, plain = backbone(architecture, image_size)
    on = vit.in_precision(precision)
    images = torch.randn(ROWS, 3, image_size, image_size)
    batch = Batch(on)

    def run(name: str) -> object:
        return batch.logits(images, rows[name])

    rows = {}
    for name in methods.names():
        model = Model([Term(adapter=adapter(name, vit, 0, on=on))])
        rows[name] = [Row(image=i, model=model) for i in range(ROWS)]
    variants: dict[str, Callable[[], object]] = {PLAIN: plain_forward(plain, images, precision)}
    variants |= {name: partial(run, name) for name in rows}
    return cpu_seconds(variants, rounds=rounds, warmup=1)


def figures(over: Mapping[str, Estimate]) -> Figures:
    """The keys of one precision, from every method's speed."""
    counted = {name: estimate for name, estimate in over.items() if name not in _LEFT_OUT}
    slowest = min(counted, key=lambda name: counted[name])
    return {
        "vpt_deep_50_over_plain": over["vpt_deep"],
        "slowest_over_plain": counted[slowest],
        "slowest": slowest,
        "over_plain": over,
    }


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    precisions.add_flag(flags)
    flags.add_argument("--architecture", default="vit_small_patch16_224")
    flags.add_argument("--image-size", type=int, default=224)
    flags.add_argument("--rounds", type=int)
    asked = flags.parse_args(given)
    rounds = asked.rounds or (3 if asked.quick else 9)
    found, tables = {}, []
    for precision in precisions.chosen(asked.precision):
        progress(f"{precision}")
        taken = measure(asked.architecture, asked.image_size, precision, rounds)
        over = {name: speed(taken, name, PLAIN) for name in taken if name != PLAIN}
        found[precision] = figures(over)
        title = f"{ROWS} rows, {asked.architecture}, {asked.image_size} px, {precision}"
        table = Table("method", "CPU ms (median)", "speed / timm", title=title)
        table.add_row(PLAIN, f"{1000 * statistics.median(taken[PLAIN]):.0f}", "1")
        for name in sorted(over, key=lambda name: over[name], reverse=True):
            table.add_row(name, f"{1000 * statistics.median(taken[name]):.0f}", str(over[name]))
        tables.append(table)
    asked_for: dict[str, Value] = {
        "architecture": asked.architecture,
        "image_size": asked.image_size,
        "rows": ROWS,
    }
    emit("methods", tables, asked_for | precisions.figures(found))


if __name__ == "__main__":
    main()
