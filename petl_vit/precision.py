"""What the frozen products are computed in, and whether the hardware has it; torch is imported when asked."""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Precision(StrEnum):
    """What the frozen products are computed in; `AUTO` is chosen before anything runs."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


CHOICES = tuple(precision.value for precision in Precision)
MEANING = "auto is bf16 where the hardware has it and the answers stay the same"
"""What commands that take a precision offer, and say of it."""


def has_bf16(device: "torch.device") -> bool:
    """Whether the hardware multiplies in bf16."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(supported is not None and supported() for supported in known)
