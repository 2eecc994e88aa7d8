"""Memory of this process: what it has, and what it may still take, within a container's limit. No torch."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_NAMES = ("memory.max", "memory.current")
_OLD_NAMES = ("memory.limit_in_bytes", "memory.usage_in_bytes")
"""Files with a cgroup's limit and what it has, in version 2 and in version 1."""


def resident_bytes(root: Path = Path("/")) -> int | None:
    """Resident memory of this process; None where the system does not say."""
    found = _field(root / "proc/self/status", "VmRSS")
    return None if found is None else 1024 * found


def usable_bytes(root: Path = Path("/")) -> int | None:
    """What this process may still take: the machine's available memory, or a cgroup's where that is less.

    Args:
        root: Where `proc/` and `sys/` are.

    Returns:
        None where the system does not say.
    """
    available = _field(root / "proc/meminfo", "MemAvailable")
    found = [*_left_in_cgroups(root)] + ([] if available is None else [1024 * available])
    return max(0, min(found)) if found else None


def _field(file: Path, name: str) -> int | None:
    """A number of KiB in a file of /proc."""
    return next((int(line.split()[1]) for line in _lines(file) if line.startswith(f"{name}:")), None)


def _left_in_cgroups(root: Path) -> Iterator[int]:
    """Of each cgroup that this process lies in and that has a limit, what is left of it."""
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers not in ("", "memory"):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        names = _OLD_NAMES if controllers else _NAMES
        folder = PurePosixPath(group.lstrip("/"))
        for part in dict.fromkeys((folder, *folder.parents, PurePosixPath())):
            limit, used = (_number(mount / part / name) for name in names)
            if limit is not None and used is not None:
                yield limit - used + _cached(mount / part / "memory.stat")


def _cached(file: Path) -> int:
    """Bytes of a cgroup that are files' pages, which give way."""
    words = (line.split() for line in _lines(file))
    return next((int(value) for name, value in words if name in ("inactive_file", "total_inactive_file")), 0)


def _number(file: Path) -> int | None:
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdigit() else None  # "max" is no limit


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
