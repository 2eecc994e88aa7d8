"""What processes keep in memory."""

import ctypes
import gc
import subprocess
import sys
import threading
from contextlib import suppress

import psutil

_PERIOD_S = 0.1


def resident_bytes() -> int:
    """Resident memory of this process without what it could give back."""
    gc.collect()
    with suppress(OSError, AttributeError):  # other C libraries have no malloc_trim
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def sizes(process: psutil.Process, seconds: float) -> list[int]:
    """The resident memory of another process, ten times a second."""
    pause, found = threading.Event(), []
    for _ in range(round(seconds / _PERIOD_S)):
        found.append(int(process.memory_info().rss))
        pause.wait(_PERIOD_S)
    return found


def with_torch_alone() -> int:
    """Resident memory of a fresh process that has imported torch and done nothing with it."""
    code = "import torch; print(torch.__version__, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = int(psutil.Process(process.pid).memory_info().rss)
        process.communicate(b"\n")
    return found
