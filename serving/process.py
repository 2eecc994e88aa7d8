"""The process of `corolla serve`: how much memory the libraries that it uses keep for later.

Only the command sets these limits; a program that runs a `Server` or a `Service` keeps its own.
"""

import ctypes
import faulthandler
import gc
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from pathlib import Path

from petl_vit import heap

PRODUCTS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}
"""Entries of two caches. For every shape of a bf16 product oneDNN keeps code (0.36 MiB) and PyTorch a
description (0.32 MiB), by default of 1,024 shapes, and every number of rows is a shape. Both caches must hold
the shapes of one forward. More entries do not pay: a server answers as many images with 32 as with 256."""

_KEPT_FREE = 4 * heap.LARGEST_BLOCK


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
    heap.keep(environ, free=_KEPT_FREE, mallopt=mallopt)


def exit_within(seconds: float) -> None:
    """Ends the process with code 1, whatever still hangs in it, and says on stderr where its threads are.

    Of a process that has begun to end: one that ends in time, ends as it would.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)


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


class _Mallinfo2(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def heap_bytes() -> tuple[int, int] | None:
    """What this process has asked the C library for and still holds, and what the library holds unused.

    The second one is memory that was freed and is kept to be used again; a part of it is resident. None where
    the library cannot say (glibc can, from 2.33). It takes 2 ms where there are 10,000 holes, and nobody can
    allocate meanwhile.
    """
    with suppress(OSError, AttributeError):
        call = ctypes.CDLL("libc.so.6").mallinfo2
        call.restype = _Mallinfo2
        found = call()
        return found.uordblks + found.hblkhd, found.fordblks
    return None


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), None)
