"""The device of a forward: `--device`, the threads of an operation, memory for long-lived tensors."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from petl_vit.cpus import usable_cpus
from petl_vit.errors import InvalidInput

_MAPPED_BYTES = 2**16
"""Tensors of at least this many bytes are mapped."""


def chosen_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one.

    Raises:
        InvalidInput: The name is "cuda" and CUDA cannot be used.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("no CUDA device can be used here", field="device", remedy="use --device auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # or the patch convolution would not be in fp32
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bf16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(supported is not None and supported() for supported in known)


@dataclass(frozen=True, kw_only=True)
class Threads:
    """How many threads an operation on the CPU uses, and why."""

    count: int
    reason: str


def use_threads(count: int | None = None) -> Threads:
    """Sets how many threads an operation on the CPU uses, in all threads of this process.

    Args:
        count: As the user chose; None is what PyTorch chose (one for each core of the affinity, or
            OMP_NUM_THREADS), and at most as many as there are usable CPUs, whose quota PyTorch does not read.
    """
    if count is not None:
        torch.set_num_threads(count)
        return Threads(count=count, reason="as set")
    default = torch.get_num_threads()
    variable = next((name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)), None)
    if variable is not None:
        return Threads(count=default, reason=variable)
    cpus = usable_cpus()
    if cpus.count < default:
        torch.set_num_threads(cpus.count)
    elif default < cpus.count:
        return Threads(count=default, reason=f"PyTorch's default; {cpus.reason}")
    return Threads(count=min(default, cpus.count), reason=cpus.reason)


@contextmanager
def one_thread(little: bool) -> Iterator[None]:
    """Runs CPU operations in the calling thread alone, where waking other threads costs more than it saves.

    Args:
        little: Whether the work is that little; otherwise nothing changes.
    """
    threads = torch.get_num_threads()
    if not little or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def long_lived_zeros(elements: int, like: Tensor) -> Tensor:
    """Zeros [elements] for a tensor that lives long; a large one on a CPU is mapped with mmap.

    On the C library's heap, long-lived tensors between short-lived ones keep it from returning memory to the
    system: a tenth more for a hundred adapters. Mapped pages return with the tensor.
    """
    size = elements * like.itemsize
    if not like.is_cpu or size < _MAPPED_BYTES or not hasattr(mmap, "MAP_PRIVATE"):
        return like.new_zeros(elements)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=like.dtype)
