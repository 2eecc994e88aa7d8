"""What this process keeps in memory."""

import ctypes
import gc
from contextlib import suppress

import psutil


def resident_bytes() -> int:
    """Resident memory of this process without what it could give back."""
    gc.collect()
    with suppress(OSError, AttributeError):  # other C libraries have no malloc_trim
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(psutil.Process().memory_info().rss)
