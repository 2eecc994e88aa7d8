"""Many adapters of many methods in one batch, against timm's own plain forward of the same rows.

    python -m benchmarks.mixed --quick

mixed_over_plain: speed of 16 rows of 16 adapters of eight PETL methods, relative to timm's plain forward
(no adapter) of the same 16 rows. n_over_1: the same rows with 16 adapters relative to one LoRA.
with_full_over_plain: with two of the rows under two fully fine-tuned models, each of which has parameters
of its own and so needs a forward of its own.
"""

import argparse
import json
import statistics
from itertools import cycle, islice

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.adapters import adapter, backbone
from benchmarks.interleave import cpu_seconds, speed_ratio
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.vit import FrozenViT

ROWS = 16
METHODS = ["linear", "bitfit", "ssf", "lora", "adaptformer", "vpt_deep", "repadapter", "convpass"]


def models(vit: FrozenViT, names: list[str], count: int) -> list[Model]:
    """So many models of distinct adapters, the methods taking turns."""
    chosen = islice(cycle(names), count)
    return [Model([Term(adapter=adapter(name, vit, seed))]) for seed, name in enumerate(chosen)]


def rows(found: list[Model]) -> list[Row]:
    """Row i is image i under model i mod the number of models."""
    return [Row(image=i, model=model) for i, model in zip(range(ROWS), cycle(found), strict=False)]


def measure(architecture: str, image_size: int, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every variant."""
    vit, plain = backbone(architecture, image_size)
    images = torch.randn(ROWS, 3, image_size, image_size)
    mixed, single = rows(models(vit, METHODS, ROWS)), rows(models(vit, ["lora"], 1))
    with_full = rows(models(vit, METHODS, ROWS - 2) + models(vit, ["full"], 2))
    batch = Batch(vit)

    def run_plain() -> object:
        with torch.inference_mode():
            return plain(images)

    variants = {
        "timm, no adapter": run_plain,
        "16 adapters": lambda: batch.logits(images, mixed),
        "1 adapter (lora)": lambda: batch.logits(images, single),
        "14 adapters + 2 full models": lambda: batch.logits(images, with_full),
    }
    return cpu_seconds(variants, rounds=rounds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds; within two minutes")
    parser.add_argument("--architecture", default="vit_small_patch16_224")
    parser.add_argument("--image-size", type=int, default=224)
    arguments = parser.parse_args()
    taken = measure(arguments.architecture, arguments.image_size, rounds=7 if arguments.quick else 25)
    table = Table(
        "variant", "CPU ms (median)", "speed / timm", title=f"{ROWS} rows, {arguments.architecture}"
    )
    for name, seconds in taken.items():
        ratio = speed_ratio(taken, name, "timm, no adapter")
        table.add_row(name, f"{1000 * statistics.median(seconds):.0f}", f"{ratio:.3f}")
    Console().print(table)
    plain = "timm, no adapter"
    print(
        json.dumps(
            {
                "benchmark": "mixed",
                "architecture": arguments.architecture,
                "image_size": arguments.image_size,
                "rows": ROWS,
                "methods": METHODS,
                "threads": torch.get_num_threads(),
                "mixed_over_plain": round(speed_ratio(taken, "16 adapters", plain), 4),
                "n_over_1": round(speed_ratio(taken, "16 adapters", "1 adapter (lora)"), 4),
                "with_full_over_plain": round(speed_ratio(taken, "14 adapters + 2 full models", plain), 4),
            }
        )
    )


if __name__ == "__main__":
    main()
