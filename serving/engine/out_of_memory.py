"""How an error says that memory has run out, on the device or on the host."""

import torch

_ON_CPU = ("CPUAllocator", "bad_alloc", "could not create a primitive")
"""In the texts of plain RuntimeErrors of PyTorch, C++ and oneDNN."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less of the same may work."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _ON_CPU)
