"""The precisions that a benchmark measures, and what the keys of each are called.

Those of fp32 have plain names, and those of bf16 the same with `_bf16` at the end. What is not measured is
null and says why.
"""

import argparse
from collections.abc import Mapping

import torch

from benchmarks.report import Figures, Value
from petl_vit.device import has_bf16
from petl_vit.precision import Precision

CPU = torch.device("cpu")
NO_BF16 = "this CPU multiplies in bf16 neither by AVX-512 nor by AMX"
NOT_ASKED = "left out by --precision"
BOTH = "both"
MEASURED = (Precision.FP32, Precision.BF16)


def add_flag(flags: argparse.ArgumentParser) -> None:
    """Adds `--precision`."""
    flags.add_argument(
        "--precision",
        choices=[*(precision.value for precision in MEASURED), BOTH],
        default=BOTH,
        help=f"of the frozen products; {BOTH}: fp32, and bf16 where the CPU has it (asked for alone it is "
        "measured without, too)",
    )


def chosen(setting: str) -> list[Precision]:
    """What the flag comes to on this machine; never empty."""
    if setting != BOTH:
        return [Precision(setting)]
    return list(MEASURED) if has_bf16(CPU) else [Precision.FP32]


def key(name: str, precision: Precision) -> str:
    """What a figure is called in a precision."""
    if precision is Precision.FP32:
        return name
    own = f"_{precision.value}"
    return name.replace("_fp32", own) if "_fp32" in name else name + own


def figures(found: Mapping[Precision, Figures]) -> dict[str, Value]:
    """The keys of both precisions; null, with a reason, of one that was not measured."""
    names = list(dict.fromkeys(name for of_one in found.values() for name in of_one))
    keys: dict[str, Value] = {key(name, p): found.get(p, {}).get(name) for p in MEASURED for name in names}
    reasons: dict[str, Value] = {f"{p.value}_reason": None if p in found else reason(p) for p in MEASURED}
    return keys | reasons


def reason(precision: Precision) -> str:
    """Why a precision was not measured."""
    return NOT_ASKED if precision is Precision.FP32 or has_bf16(CPU) else NO_BF16
