"""The precisions of the frozen products, and how commands name them; no torch."""

from enum import StrEnum


class Precision(StrEnum):
    """The precision of the frozen products; `AUTO` is resolved before anything runs."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


CHOICES = tuple(precision.value for precision in Precision)
MEANING = "auto is bf16 where the hardware has it and the answers stay the same"
"""The choices of a command's `--precision`, and what its help says of auto."""
