"""Many adapters of many methods in one batch, against timm's own plain forward of the same rows.

    python -m benchmarks.mixed --quick

mixed_over_plain: speed of 32 rows of 16 adapters of eight PETL methods, relative to timm's plain forward
(no adapter) of the same rows; the lower of ViT-S/16 and ViT-B/16 at 224 px. mixed_over_plain_64px: the same
with ViT-S/16 at 64 px, where overhead shows. n_over_1: the 16 adapters relative to one LoRA, ViT-S/16 at 224.
mixed_over_plain_no_shortcut: ViT-S/16 at 224 against our own forward without edits, which like ours with
edits computes only the class token in the last block and keeps activations small: what the edits alone cost.
with_full_over_plain: with two rows under two fully fine-tuned models, each with a forward of its own.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from itertools import cycle, islice

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.adapters import adapter, backbone
from benchmarks.interleave import cpu_seconds, speed_ratio
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.vit import FrozenViT

ROWS, ADAPTERS = 32, 16
METHODS = ["linear", "bitfit", "ssf", "lora", "adaptformer", "vpt_deep", "repadapter", "convpass"]
SMALL, BASE = "vit_small_patch16_224", "vit_base_patch16_224"

PLAIN, MIXED, ONE = "timm, no adapter", "16 adapters", "1 adapter (lora)"
UNEDITED, FULL = "ours, no adapter", "14 adapters + 2 full models"


def models(vit: FrozenViT, names: list[str], count: int) -> list[Model]:
    """So many models of distinct adapters, the methods taking turns."""
    chosen = islice(cycle(names), count)
    return [Model([Term(adapter=adapter(name, vit, seed))]) for seed, name in enumerate(chosen)]


def rows(found: list[Model]) -> list[Row]:
    """Row i is image i under model i mod the number of models."""
    return [Row(image=i, model=model) for i, model in zip(range(ROWS), cycle(found), strict=False)]


def measure(architecture: str, image_size: int, rounds: int, variants: list[str]) -> dict[str, list[float]]:
    """CPU seconds of every variant."""
    vit, plain = backbone(architecture, image_size)
    images = torch.randn(ROWS, 3, image_size, image_size)
    batch = Batch(vit)

    def run_plain() -> object:
        with torch.inference_mode():
            return plain(images)

    wanted: dict[str, Callable[[], list[Row]]] = {
        MIXED: lambda: rows(models(vit, METHODS, ADAPTERS)),
        ONE: lambda: rows(models(vit, ["lora"], 1)),
        UNEDITED: lambda: rows(models(vit, ["linear"], 1)),
        FULL: lambda: [*rows(models(vit, METHODS, ADAPTERS - 2))[:-2], *rows(models(vit, ["full"], 2))[-2:]],
    }
    made = {name: make() for name, make in wanted.items() if name in variants}
    runs = {name: (lambda found=found: batch.logits(images, found)) for name, found in made.items()}
    return cpu_seconds({PLAIN: run_plain} | runs, rounds=rounds, warmup=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds; within two minutes")
    quick = parser.parse_args().quick
    small = measure(SMALL, 224, 3 if quick else 11, [MIXED, ONE] if quick else [MIXED, ONE, UNEDITED, FULL])
    tiny = measure(SMALL, 64, 9 if quick else 41, [MIXED])
    base = measure(BASE, 224, 1 if quick else 5, [MIXED])
    table = Table("variant", "CPU ms (median)", "speed / timm", title=f"{ROWS} rows")
    for title, taken in (("ViT-S/16, 224", small), ("ViT-S/16, 64", tiny), ("ViT-B/16, 224", base)):
        for name, seconds in taken.items():
            ratio = speed_ratio(taken, name, PLAIN)
            table.add_row(f"{title}: {name}", f"{1000 * statistics.median(seconds):.0f}", f"{ratio:.3f}")
    Console().print(table)
    over = {"vit_s": speed_ratio(small, MIXED, PLAIN), "vit_b": speed_ratio(base, MIXED, PLAIN)}
    print(
        json.dumps(
            {
                "benchmark": "mixed",
                "rows": ROWS,
                "adapters": ADAPTERS,
                "methods": METHODS,
                "threads": torch.get_num_threads(),
                "mixed_over_plain": round(min(over.values()), 4),
                "mixed_over_plain_64px": round(speed_ratio(tiny, MIXED, PLAIN), 4),
                "n_over_1": round(speed_ratio(small, MIXED, ONE), 4),
                "mixed_over_plain_by_backbone": {name: round(ratio, 4) for name, ratio in over.items()},
                "mixed_over_plain_no_shortcut": _ratio(small, MIXED, UNEDITED),
                "with_full_over_plain": _ratio(small, FULL, PLAIN),
            }
        )
    )


def _ratio(taken: dict[str, list[float]], variant: str, baseline: str) -> float | None:
    """None where the quick run leaves one out."""
    if variant not in taken or baseline not in taken:
        return None
    return round(speed_ratio(taken, variant, baseline), 4)


if __name__ == "__main__":
    main()
