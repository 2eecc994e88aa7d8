"""What each method costs at inference: a batch under it alone, against timm's plain forward.

    python -m benchmarks.methods --quick

Speed relative to timm's plain forward of the same rows, CPU time, interleaved; 1 is free.
vpt_deep_50_over_plain: VPT-Deep with 50 prompts a block. slowest_over_plain: the slowest of all but
VPT-Shallow (which carries tokens) and full.
"""

import argparse
import json
import statistics

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.adapters import adapter, backbone
from benchmarks.interleave import cpu_seconds, speed_ratio
from petl_vit import methods
from petl_vit.batch import Batch, Model, Row, Term

ROWS = 16
PLAIN = "timm, no adapter"
_LEFT_OUT = {"vpt_shallow", "full", "selective"}


def measure(architecture: str, image_size: int, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of timm's forward and of every method's."""
    vit, plain = backbone(architecture, image_size)
    images = torch.randn(ROWS, 3, image_size, image_size)
    batch = Batch(vit)

    def run_plain() -> object:
        with torch.inference_mode():
            return plain(images)

    def run(name: str) -> object:
        return batch.logits(images, rows[name])

    rows = {}
    for name in methods.names():
        model = Model([Term(adapter=adapter(name, vit, 0))])
        rows[name] = [Row(image=i, model=model) for i in range(ROWS)]
    variants = {PLAIN: run_plain} | {name: (lambda name=name: run(name)) for name in rows}
    return cpu_seconds(variants, rounds=rounds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--architecture", default="vit_small_patch16_224")
    parser.add_argument("--image-size", type=int, default=224)
    arguments = parser.parse_args()
    taken = measure(arguments.architecture, arguments.image_size, rounds=3 if arguments.quick else 9)
    ratios = {name: speed_ratio(taken, name, PLAIN) for name in taken}
    table = Table("method", "CPU ms (median)", "speed / timm", title=f"{ROWS} rows, {arguments.architecture}")
    for name in sorted(taken, key=lambda name: -ratios[name]):
        table.add_row(name, f"{1000 * statistics.median(taken[name]):.0f}", f"{ratios[name]:.3f}")
    Console().print(table)
    counted = {name: ratio for name, ratio in ratios.items() if name not in {PLAIN, *_LEFT_OUT}}
    print(
        json.dumps(
            {
                "benchmark": "methods",
                "architecture": arguments.architecture,
                "image_size": arguments.image_size,
                "rows": ROWS,
                "vpt_deep_50_over_plain": round(ratios["vpt_deep"], 4),
                "slowest_over_plain": round(min(counted.values()), 4),
                "slowest": min(counted, key=lambda name: counted[name]),
                "over_plain": {name: round(ratio, 4) for name, ratio in ratios.items() if name != PLAIN},
            }
        )
    )


if __name__ == "__main__":
    main()
