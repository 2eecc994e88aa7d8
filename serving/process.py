"""The process of `corolla serve`: how much memory the libraries that it uses keep for later.

Only the command sets these limits; a program that runs a `Server` or a `Service` keeps its own.
"""

import ctypes
import gc
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from pathlib import Path

PRODUCTS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}
"""Entries of two caches. For every shape of a bf16 product oneDNN keeps code (0.36 MiB) and PyTorch a
description (0.32 MiB), by default of 1,024 shapes, and every number of rows is a shape. Both caches must hold
the shapes of one forward. More entries do not pay: a server answers as many images with 32 as with 256."""

_LARGEST_BLOCK = 32 * 2**20  # the largest threshold that glibc accepts
_MALLOC = {
    # In an arena of the engine's thread, activations would be unmapped and mapped again with most forwards.
    "MALLOC_ARENA_MAX": (-8, 1),
    "MALLOC_MMAP_THRESHOLD_": (-3, _LARGEST_BLOCK),
    "MALLOC_TRIM_THRESHOLD_": (-1, 4 * _LARGEST_BLOCK),
}
"""glibc's variables, and the option and value of `mallopt` that mean the same."""


def bound_memory(
    environ: MutableMapping[str, str], mallopt: Callable[[int, int], object] | None = None
) -> None:
    """Bounds the caches of oneDNN and PyTorch, and keeps activations in one heap that is reused.

    Call it before torch multiplies and before threads start. Variables that are set are left alone.

    Args:
        environ: The process's environment.
        mallopt: The C library's function; None for this process's own, where it has one.
    """
    for name, value in PRODUCTS.items():
        environ.setdefault(name, value)
    with suppress(OSError, AttributeError):  # other C libraries have neither file nor function
        call = mallopt or ctypes.CDLL("libc.so.6").mallopt
        for name, (option, size) in _MALLOC.items():
            if name not in environ:
                call(option, size)


def settle() -> None:
    """Freezes start-up objects, and returns the memory that the start freed.

    They live until exit, so full collections need not scan them, which takes 200 ms for torch and a backbone.
    """
    gc.collect()
    gc.freeze()
    give_back()


def give_back() -> None:
    """Returns memory that the C library holds unused to the system, where the library can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), None)
