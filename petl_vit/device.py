"""Where a forward runs: what `--device` means, how many threads share an operation, where tensors stay."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from petl_vit.errors import InvalidInput

_OWN_PAGES = 2**16


def chosen_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one.

    Raises:
        InvalidInput: CUDA is asked for and cannot be used.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("no CUDA device can be used here", field="device", remedy="use --device auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # the patch convolution is in fp32 where that is asked for
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bf16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(supported is not None and supported() for supported in known)


@contextmanager
def one_thread(alone: bool) -> Iterator[None]:
    """Operations on a CPU run in the calling thread alone, where waking others costs more than they take off.

    Args:
        alone: Whether the work is so little; otherwise nothing changes.
    """
    threads = torch.get_num_threads()
    if not alone or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def own_memory(elements: int, like: Tensor) -> Tensor:
    """Zeros [elements] for what stays long, in pages of their own where that is worth it.

    Between what comes and goes, it would keep the C library from giving memory back: a tenth more for a
    hundred adapters. These pages go back to the system with the tensor.
    """
    size = elements * like.itemsize
    if not like.is_cpu or size < _OWN_PAGES or not hasattr(mmap, "MAP_PRIVATE"):
        return like.new_zeros(elements)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=like.dtype)
