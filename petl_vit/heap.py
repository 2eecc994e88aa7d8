"""How the C library keeps memory that is freed: for processes whose activations come and go. No torch.

Memory that is returned to the system costs a page fault for every 4 KiB when it is asked for again.
"""

import ctypes
from collections.abc import Callable, Mapping
from contextlib import suppress

LARGEST_BLOCK = 32 * 2**20
"""Larger blocks are mapped anew each time: the largest threshold that glibc accepts."""
ALL = 2**31 - 1


def keep(
    environ: Mapping[str, str], *, free: int = ALL, mallopt: Callable[[int, int], object] | None = None
) -> None:
    """Keeps freed memory in one heap, to be used again. Variables of glibc that are set are left alone.

    Args:
        environ: The process's environment.
        free: Bytes that may be free at the end of the heap; more is returned to the system.
        mallopt: The C library's function; None for this process's own, where it has one.
    """
    options = {  # glibc's variables, and the option and value of `mallopt` that mean the same
        # In an arena of another thread, activations would be unmapped and mapped again with most forwards.
        "MALLOC_ARENA_MAX": (-8, 1),
        "MALLOC_MMAP_THRESHOLD_": (-3, LARGEST_BLOCK),
        "MALLOC_TRIM_THRESHOLD_": (-1, free),
    }
    with suppress(OSError, AttributeError):  # other C libraries have neither file nor function
        call = mallopt or ctypes.CDLL("libc.so.6").mallopt
        for name, (option, size) in options.items():
            if name not in environ:
                call(option, size)
