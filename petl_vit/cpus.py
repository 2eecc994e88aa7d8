"""The CPUs that this process may use: those that it may run on, within a container's CPU limit. No torch.

A container's CPU limit (`docker run --cpus`, Kubernetes' `limits.cpu`) is a quota of a cgroup: time on any
CPU. Neither the number of CPUs nor the affinity shows it, and a thread for each CPU then spends the quota
early in every period and waits for the rest of it.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, kw_only=True)
class Cpus:
    """How many CPUs this process may use.

    Attributes:
        count: At least 1.
        reason: Why it is that many, such as "the cgroup's quota is 1.5 CPUs".
        by_quota: Whether a cgroup's quota is what bounds it.
    """

    count: int
    reason: str
    by_quota: bool = False


def usable_cpus(root: Path = Path("/")) -> Cpus:
    """The CPUs of the affinity, or a cgroup's quota where that is less; a quota of 1.5 is two CPUs.

    Reads both versions of cgroups, and the quotas of all cgroups that this process's own lies in.

    Args:
        root: Where `proc/` and the mounts of the cgroups are.
    """
    total = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    quota = min(_quotas(root), default=math.inf)
    if quota < allowed:
        reason = f"the cgroup's quota is {_counted(quota)}"
        return Cpus(count=math.ceil(quota), reason=reason, by_quota=True)
    if allowed < total:
        return Cpus(count=allowed, reason=f"the affinity is {allowed} of {_counted(total)}")
    return Cpus(count=total, reason=f"the machine has {_counted(total)}")


def _counted(cpus: float) -> str:
    return "1 CPU" if cpus == 1 else f"{cpus:.3g} CPUs"


def _quotas(root: Path) -> Iterator[float]:
    """The quotas, in CPUs, of the cgroups of this process; none where the system has no cgroups."""
    groups = dict(_groups(root))
    for controllers, mounted_group, mount in _mounts(root):
        if controllers not in groups:
            continue
        folder = mount / _below(mounted_group, groups[controllers])
        for nested in (folder, *folder.parents):
            quota = _quota_v2(nested) if controllers == "" else _quota_v1(nested)
            if quota is not None:
                yield quota
            if nested == mount:
                break


def _below(mounted: str, group: str) -> PurePosixPath:
    """Where a cgroup is below one that is mounted; at it, where the mount does not say.

    In a container a mount may show only the container's own cgroup, under its full name on the machine.
    """
    path = PurePosixPath(group)
    if ".." in path.parts or not path.is_relative_to(mounted):
        return PurePosixPath()
    return path.relative_to(mounted)


def _groups(root: Path) -> Iterator[tuple[str, str]]:
    """This process's cgroups: "cpu" of version 1, "" of version 2."""
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            yield "", group
        elif "cpu" in controllers.split(","):
            yield "cpu", group


def _mounts(root: Path) -> Iterator[tuple[str, str, Path]]:
    """Where cgroups are mounted: "cpu" or "" as above, the cgroup that is shown there, and the folder."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        group, folder = _unescaped(fields[3]), root / _unescaped(fields[4]).lstrip("/")
        if kind[0] == "cgroup2":
            yield "", group, folder
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            yield "cpu", group, folder


def _unescaped(path: str) -> str:
    """A path of mountinfo, which writes a space as \\040."""
    return path.replace("\\040", " ").replace("\\134", "\\")


def _quota_v2(folder: Path) -> float | None:
    words = " ".join(_lines(folder / "cpu.max")).split()
    return _ratio(words[0], words[1] if len(words) > 1 else "100000") if words else None


def _quota_v1(folder: Path) -> float | None:
    quota, period = _lines(folder / "cpu.cfs_quota_us"), _lines(folder / "cpu.cfs_period_us")
    return _ratio(quota[0], period[0]) if quota and period else None


def _ratio(quota: str, period: str) -> float | None:
    """CPUs; None for "max", -1 and what is not a number: no quota."""
    try:
        ratio = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return ratio if ratio > 0 else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
