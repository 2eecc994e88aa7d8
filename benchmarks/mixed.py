"""Many adapters of many methods in one batch, against timm's own plain forward of the same rows.

    python -m benchmarks.mixed --quick

mixed_over_plain: speed of 32 rows of 16 adapters of eight PETL methods, relative to timm's plain forward
(no adapter) of the same rows; the lower of ViT-S/16 and ViT-B/16 at 224 px. mixed_over_plain_64px: the same
with ViT-S/16 at 64 px, where overhead shows. n_over_1: the 16 adapters relative to one LoRA, ViT-S/16 at 224.
mixed_over_products, mixed_over_products_64px: relative to the bare frozen products of the same rows
(`benchmarks/bare_products.py`), ViT-S/16; what is missing to 1 is attention, norms, activations and edits.
mixed_over_plain_no_shortcut: ViT-S/16 at 224 against our own forward without edits, which like ours with
edits computes only the class token in the last block and keeps activations small: what the edits alone cost.
with_full_over_plain: with two rows under two fully fine-tuned models, each with a forward of its own.
mixed_over_plain_rope: like mixed_over_plain, with DINOv3's ViT-S/16 (rotary positions) at 224 px;
mixed_over_plain_glu: with DINOv2's ViT-S/14, its MLP gated (SwiGLU). Of both the class token is pooled.
dora_over_lora_ssf: what a batch costs in which half of the 16 adapters are DoRA, relative to one in which
that half are sums of a LoRA and an SSF; ViT-S/16, the higher of 224 and 64 px. Below 1 is cheaper.

In bf16 (`*_bf16`) all of timm's forward is in bf16; of ours the frozen products are.
To reach: mixed_over_plain 0.96, mixed_over_plain_64px 0.92, n_over_1 0.95; mixed_over_plain_bf16 0.93,
mixed_over_plain_64px_bf16 0.80; mixed_over_plain_rope, mixed_over_plain_glu 0.95; dora_over_lora_ssf <= 1.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

import torch
from rich.table import Table

from benchmarks import precisions
from benchmarks.adapters import adapter, backbone, plain_forward
from benchmarks.bare_products import BareProducts
from benchmarks.estimate import Estimate
from benchmarks.interleave import Costs, cpu_seconds, speed
from benchmarks.report import Figures, Value, emit, parser, progress
from petl_vit.backbone import Options
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.precision import Precision
from petl_vit.vit import FrozenViT

ROWS, ADAPTERS = 32, 16
METHODS = ["linear", "bitfit", "ssf", "lora", "adaptformer", "vpt_deep", "repadapter", "convpass"]

PLAIN, MIXED, ONE = "timm, no adapter", "16 adapters", "1 adapter (lora)"
UNEDITED, FULL = "ours, no adapter", "14 adapters + 2 full models"
PRODUCTS = "frozen products alone"
DORA, SUMS = "8 adapters + 8 DoRA", "8 adapters + 8 sums of LoRA and SSF"
SMALL, TINY, BASE = "ViT-S/16, 224 px", "ViT-S/16, 64 px", "ViT-B/16, 224 px"
ROPE, GLU = "DINOv3 ViT-S/16, 224 px", "DINOv2 ViT-S/14 with SwiGLU, 224 px"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A backbone, and what is timed on it besides timm's plain forward and the mixed batch."""

    architecture: str
    image_size: int
    rounds: int
    others: Sequence[str] = ()
    options: Options = field(default_factory=dict)


def settings(*, quick: bool) -> dict[str, Setting]:
    """All backbones. Small images are short work, so more rounds are spent on them."""
    small, base = "vit_small_patch16_224", "vit_base_patch16_224"
    token: Options = {"global_pool": "token"}
    narrow: Options = {"depth": 12, "embed_dim": 384, "num_heads": 6}
    doras = [DORA, SUMS]
    others = [ONE, PRODUCTS, *doras] if quick else [ONE, PRODUCTS, *doras, UNEDITED, FULL]
    rounds = 3 if quick else 11
    return {
        SMALL: Setting(architecture=small, image_size=224, rounds=rounds, others=others),
        TINY: Setting(
            architecture=small, image_size=64, rounds=21 if quick else 41, others=[PRODUCTS, *doras]
        ),
        BASE: Setting(architecture=base, image_size=224, rounds=2 if quick else 5),
        ROPE: Setting(architecture="vit_small_patch16_dinov3", options=token, image_size=224, rounds=rounds),
        GLU: Setting(
            architecture="vit_giant_patch14_reg4_dinov2", options=narrow, image_size=224, rounds=rounds
        ),
    }


def models(vit: FrozenViT, names: Sequence[str], count: int, on: FrozenViT) -> list[Model]:
    """So many models of distinct adapters, the methods taking turns; `lora+ssf` is a sum of two."""
    return [
        Model([Term(adapter=adapter(name, vit, seed, on=on)) for name in summed.split("+")])
        for seed, summed in enumerate(islice(cycle(names), count))
    ]


def every_other(name: str) -> list[str]:
    """The methods, each followed by this one."""
    return [one for method in METHODS for one in (method, name)]


def rows(found: Sequence[Model]) -> list[Row]:
    """Row i is image i under model i mod the number of models."""
    return [Row(image=i, model=model) for i, model in zip(range(ROWS), cycle(found), strict=False)]


def measure(setting: Setting, precision: Precision) -> Costs:
    """CPU seconds of every variant."""
    vit, plain = backbone(setting.architecture, setting.image_size, setting.options)
    on = vit.in_precision(precision)
    images = torch.randn(ROWS, 3, setting.image_size, setting.image_size)
    batch = Batch(on)

    def ours(methods: Sequence[str], count: int, full: int = 0) -> Callable[[], object]:
        lighter = rows(models(vit, methods, count, on))[: ROWS - full]
        own = [*lighter, *rows(models(vit, ["full"], full, on))[ROWS - full :]]
        return lambda: batch.logits(images, own)

    variants: dict[str, Callable[[], Callable[[], object]]] = {
        PLAIN: lambda: plain_forward(plain, images, precision),
        MIXED: lambda: ours(METHODS, ADAPTERS),
        ONE: lambda: ours(["lora"], 1),
        UNEDITED: lambda: ours(["linear"], 1),
        FULL: lambda: ours(METHODS, ADAPTERS - 2, full=2),
        DORA: lambda: ours(every_other("dora"), ADAPTERS),
        SUMS: lambda: ours(every_other("lora+ssf"), ADAPTERS),
        PRODUCTS: lambda: BareProducts(batch, images).run,
    }
    timed = {name: make() for name, make in variants.items() if name in (PLAIN, MIXED, *setting.others)}
    return cpu_seconds(timed, rounds=setting.rounds, warmup=1)


def figures(taken: dict[str, Costs]) -> Figures:
    """The keys of one precision."""
    over = {name: speed(costs, MIXED, PLAIN) for name, costs in taken.items()}
    small, tiny = taken[SMALL], taken[TINY]
    return {
        "mixed_over_plain": min(over[SMALL], over[BASE]),
        "mixed_over_plain_64px": over[TINY],
        "mixed_over_plain_rope": over[ROPE],
        "mixed_over_plain_glu": over[GLU],
        "n_over_1": speed(small, MIXED, ONE),
        "mixed_over_products": speed(small, MIXED, PRODUCTS),
        "mixed_over_products_64px": speed(tiny, MIXED, PRODUCTS),
        "mixed_over_plain_by_backbone": {"vit_s": over[SMALL], "vit_b": over[BASE]},
        "mixed_over_plain_no_shortcut": _left_out_or(small, MIXED, UNEDITED),
        "with_full_over_plain": _left_out_or(small, FULL, PLAIN),
        "dora_over_lora_ssf": max(speed(costs, SUMS, DORA) for costs in (small, tiny)),
    }


def _left_out_or(taken: Costs, variant: str, baseline: str) -> Estimate | None:
    """None where the quick run leaves one out."""
    return speed(taken, variant, baseline) if {variant, baseline} <= taken.keys() else None


def table(taken: dict[str, Costs], precision: Precision) -> Table:
    """One row for each variant on each backbone."""
    shown = Table("variant", "CPU ms (median)", "speed / timm", title=f"{ROWS} rows, {precision}")
    for title, costs in taken.items():
        for name, seconds in costs.items():
            median = 1000 * statistics.median(seconds)
            shown.add_row(f"{title}: {name}", f"{median:.0f}", str(speed(costs, name, PLAIN)))
    return shown


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    precisions.add_flag(flags)
    asked = flags.parse_args(given)
    found, tables = {}, []
    for precision in precisions.chosen(asked.precision):
        taken = {}
        for title, setting in settings(quick=asked.quick).items():
            progress(f"{precision}: {title}")
            taken[title] = measure(setting, precision)
        found[precision] = figures(taken)
        tables.append(table(taken, precision))
    asked_for: dict[str, Value] = {
        "quick": asked.quick,
        "rows": ROWS,
        "adapters": ADAPTERS,
        "methods": ", ".join(METHODS),
    }
    emit("mixed", tables, asked_for | precisions.figures(found))


if __name__ == "__main__":
    main()
