"""What `corolla serve` sets for its own process: how much memory the libraries below it keep for later.

A program that runs a `Server` or a `Service` of its own keeps its limits: only the command sets these.
"""

import ctypes
import gc
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from pathlib import Path

PRODUCTS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}
"""For every shape of a bf16 product oneDNN keeps code, 0.36 MiB, and PyTorch a description, 0.32 MiB; both
of 1,024 shapes by default, and every number of rows is a shape. Both caches have to hold the shapes of one
forward. Holding those of most batches does not pay: a server answers as many images with 32 as with 256."""

_LARGEST_KEPT = 32 * 2**20  # the most that glibc takes
_MALLOC = {
    # Activations in an arena of the engine's thread are given back and mapped anew with most forwards.
    "MALLOC_ARENA_MAX": (-8, 1),
    "MALLOC_MMAP_THRESHOLD_": (-3, _LARGEST_KEPT),
    "MALLOC_TRIM_THRESHOLD_": (-1, 4 * _LARGEST_KEPT),
}
"""glibc's variables, and the number and value of `mallopt` that says the same."""


def bound_memory(
    environ: MutableMapping[str, str], mallopt: Callable[[int, int], object] | None = None
) -> None:
    """Bounds what oneDNN and PyTorch keep of products, and keeps activations in one heap that is used again.

    To be called before torch multiplies and before threads start. Variables that are set stay as they are.

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
    """Freezes what the start made, which lives until the end, and gives back what it left behind.

    Full collections need not scan it: Python would wait 200 ms for what torch and a backbone bring along.
    """
    gc.collect()
    gc.freeze()
    give_back()


def give_back() -> None:
    """Returns memory that the C library holds and nobody uses to the system, where the library can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), None)
