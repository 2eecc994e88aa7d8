"""The CPUs that a process may use: its affinity, and the quotas of its cgroups."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from petl_vit.cpus import usable_cpus

Machine = Callable[..., Path]

V2 = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
HYBRID = V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A root with cgroups, on a machine of 16 CPUs."""

    def make(*, groups: str, mounts: str, files: dict[str, str], allowed: int = 16) -> Path:
        monkeypatch.setattr(os, "cpu_count", lambda: 16)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(allowed)), raising=False)
        said = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts}
        for name, text in (said | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}).items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("limit", "count"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),  # as Java and .NET: rounded up, or half a CPU would never be used
        ("10000 100000\n", 1),
        ("300000\n", 3),  # the period's default
        ("25000 50000\n", 1),
        ("max 100000\n", 16),
        ("6400000 100000\n", 16),
        ("", 16),
        ("nonsense\n", 16),
    ],
)
def test_the_quota_of_a_container_bounds_the_cpus(machine: Machine, limit: str, count: int) -> None:
    root = machine(groups="0::/\n", mounts=V2, files={"cpu.max": limit})
    cpus = usable_cpus(root)
    assert cpus.count == count
    assert cpus.by_quota == ("quota" in cpus.reason) == (count < 16)


def test_the_quota_of_an_outer_cgroup_bounds_the_inner_ones(machine: Machine) -> None:
    files = {
        "a/cpu.max": "300000 100000\n",
        "a/b/cpu.max": "max 100000\n",
        "a/b/c/cpu.max": "500000 100000\n",
    }
    root = machine(groups="1:name=systemd:/\n0::/a/b/c\n", mounts=V2, files=files)
    assert usable_cpus(root).reason == "the cgroup's quota is 3 CPUs"


def test_the_quota_of_another_cgroup_is_not_ours(machine: Machine) -> None:
    files = {"a/cpu.max": "max 100000\n", "a/other/cpu.max": "100000 100000\n"}
    assert usable_cpus(machine(groups="0::/a\n", mounts=V2, files=files)).count == 16


@pytest.mark.parametrize("group", ["/", "/docker/abc", "/../elsewhere"])
def test_a_container_sees_its_own_cgroup_where_the_groups_are_mounted(machine: Machine, group: str) -> None:
    mounts = V2.replace("0:28 /", "0:28 /docker/abc")
    root = machine(groups=f"0::{group}\n", mounts=mounts, files={"cpu.max": "400000 100000\n"})
    assert usable_cpus(root).count == 4


@pytest.mark.parametrize(("quota", "count"), [("250000\n", 3), ("-1\n", 16)])
@pytest.mark.parametrize("mounts", [V1, HYBRID])
def test_the_first_version_of_cgroups_is_read_too(
    machine: Machine, mounts: str, quota: str, count: int
) -> None:
    files = {
        "cpu,cpuacct/kube/pod/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/kube/pod/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/kube/cpu.cfs_quota_us": quota,
        "cpu,cpuacct/kube/cpu.cfs_period_us": "100000\n",
    }
    root = machine(groups="4:memory:/kube\n1:cpu,cpuacct:/kube/pod\n0::/\n", mounts=mounts, files=files)
    assert usable_cpus(root).count == count


def test_the_affinity_bounds_the_cpus_and_the_smaller_bound_counts(machine: Machine) -> None:
    v2 = {"groups": "0::/\n", "mounts": V2}
    root = machine(**v2, files={"cpu.max": "max 100000\n"}, allowed=4)
    assert usable_cpus(root).count == 4
    assert usable_cpus(root).reason == "the affinity is 4 of 16 CPUs"
    assert usable_cpus(machine(**v2, files={"cpu.max": "800000 100000\n"}, allowed=4)).count == 4
    assert usable_cpus(machine(**v2, files={"cpu.max": "200000 100000\n"}, allowed=4)).count == 2


def test_a_system_without_cgroups_or_affinity_has_all_its_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert usable_cpus(tmp_path).reason == "the machine has 8 CPUs"
