"""What the frozen products are computed in, and whether the hardware has it."""

from enum import StrEnum

import torch


class Precision(StrEnum):
    """What the frozen products are computed in; `AUTO` is chosen before anything runs."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bf16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(supported is not None and supported() for supported in known)
