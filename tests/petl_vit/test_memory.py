"""What a process may still take, as a system without and with limits says it."""

from pathlib import Path

import pytest

from petl_vit.memory import resident_bytes, usable_bytes

GIB = 2**30


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        file = root / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


MEMINFO = {"proc__meminfo": f"MemTotal: {16 * 2**20} kB\nMemAvailable: {8 * 2**20} kB\n"}


def test_without_a_limit_it_is_what_the_machine_has_available(tmp_path: Path) -> None:
    assert usable_bytes(write(tmp_path, **MEMINFO)) == 8 * GIB


@pytest.mark.parametrize("limit", ["max", str(32 * GIB)])
def test_a_limit_above_what_is_available_changes_nothing(tmp_path: Path, limit: str) -> None:
    files = {"sys__fs__cgroup__memory_dot_max": limit, "sys__fs__cgroup__memory_dot_current": str(GIB)}
    assert usable_bytes(write(tmp_path, proc__self__cgroup="0::/\n", **MEMINFO, **files)) == 8 * GIB


def test_a_limit_counts_what_is_used_but_not_pages_of_files(tmp_path: Path) -> None:
    files = {
        "sys__fs__cgroup__job__memory_dot_max": str(4 * GIB),
        "sys__fs__cgroup__job__memory_dot_current": str(3 * GIB),
        "sys__fs__cgroup__job__memory_dot_stat": f"anon 5\ninactive_file {GIB}\n",
    }
    assert usable_bytes(write(tmp_path, proc__self__cgroup="0::/job/step\n", **MEMINFO, **files)) == 2 * GIB


def test_the_older_cgroups_are_read_too(tmp_path: Path) -> None:
    files = {
        "sys__fs__cgroup__memory__memory_dot_limit_in_bytes": str(2 * GIB),
        "sys__fs__cgroup__memory__memory_dot_usage_in_bytes": str(GIB),
    }
    root = write(tmp_path, proc__self__cgroup="3:memory:/docker/1\n", **MEMINFO, **files)
    assert usable_bytes(root) == GIB


def test_a_system_that_does_not_say_has_no_bound(tmp_path: Path) -> None:
    assert usable_bytes(tmp_path) is None
    assert resident_bytes(tmp_path) is None
