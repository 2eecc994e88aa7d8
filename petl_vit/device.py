"""Where a forward runs: what `--device` means on this machine."""

import torch

from petl_vit.errors import InvalidInput


def chosen_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one.

    Raises:
        InvalidInput: CUDA is asked for and cannot be used.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("no CUDA device can be used here", field="device", remedy="use --device auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
