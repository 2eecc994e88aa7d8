"""What the frozen products are computed in; `petl_vit.device` knows what the hardware has."""

from enum import StrEnum


class Precision(StrEnum):
    """What the frozen products are computed in; `AUTO` is chosen before anything runs."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


CHOICES = tuple(precision.value for precision in Precision)
MEANING = "auto is bf16 where the hardware has it and the answers stay the same"
"""What commands that take a precision offer, and say of it."""
