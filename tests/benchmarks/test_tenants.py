from typing import Any

import numpy as np
import pytest

from benchmarks.tenants import __main__ as benchmark
from benchmarks.tenants.__main__ import Waits, figures
from benchmarks.tenants.servers import COPIES, PARTITION, SHARED, UNFAIR
from benchmarks.tenants.slices import sliced
from benchmarks.tenants.workload import arrivals, groups, tenants
from tests.waiting import until

pytestmark = [pytest.mark.machine, pytest.mark.benchmarks]

TASKS = tenants(100, 1.0)


@pytest.mark.slow
def test_it_ends_with_its_figures(figures: Any) -> None:
    small = ("--image-size", "32", "--tasks", "3", "--groups", "1", "--threads", "1", "--requests", "9")

    found = figures(benchmark.main, "--quick", *small, "--seconds", "0.5", "--rounds", "1")

    keys = ("p99_over_partitioned", "p99_light_over_unfair", "tasks_per_gib_over_copies")
    assert all(isinstance(found[key], float) for key in keys)
    assert (
        found["memory_mib"].keys()
        == found["capacity_per_s"].keys()
        == {
            SHARED,
            PARTITION,
            COPIES,
            UNFAIR,
        }
    )


def test_light_tasks_ask_for_less_than_their_weight_is_due() -> None:
    assert sum(tenant.demand for tenant in TASKS) == pytest.approx(1)
    assert sum(tenant.due for tenant in TASKS) == pytest.approx(1)
    assert not TASKS[0].light
    assert TASKS[-1].light


def test_groups_are_asked_as_evenly_as_can_be() -> None:
    dealt = groups(TASKS, 5)

    assert sorted(tenant.task for group in dealt for tenant in group) == [tenant.task for tenant in TASKS]
    shares = [sum(tenant.demand for tenant in group) for group in dealt]
    assert max(shares) - min(shares) < 0.01


def test_arrivals_are_as_many_as_asked_by_demand_and_in_bursts() -> None:
    bursts = arrivals(TASKS, 20_000, 100, burst=4, seed=0)
    steady = arrivals(TASKS, 20_000, 100, burst=1, seed=0)

    assert len(bursts) == len(steady) == 20_000
    assert bursts == sorted(bursts)
    assert 0 <= bursts[0][0] <= bursts[-1][0] <= 100
    first = [time for time, task in bursts if task == 0]
    assert len(first) / len(bursts) == pytest.approx(TASKS[0].demand, rel=0.1)

    def variance(of: list[tuple[float, int]]) -> float:
        seconds = np.histogram([time for time, _ in of], bins=100)[0]
        return float(seconds.var() / seconds.mean())

    assert variance(bursts) > 3 * variance(steady)


def test_ratios_are_of_all_rounds_and_vary_between_them() -> None:
    waits = Waits(
        of={SHARED: [[1.0, 2.0], [1.0, 4.0]], COPIES: [[2.0, 4.0], [2.0, 16.0]], UNFAIR: [[4, 8], [4, 8]]}
        | {PARTITION: [[4.0, 8.0], [4.0, 32.0]]},
        light=[[True, False], [True, False]],
    )
    memory = {SHARED: 1, COPIES: 7, UNFAIR: 1}

    found = figures({0.7: waits}, {}, memory)

    assert found["p99_light_over_unfair"].value == 0.25  # type: ignore[union-attr]
    assert waits.ratio(SHARED, COPIES).value == pytest.approx(0.25, abs=0.02)
    assert waits.ratio(SHARED, COPIES).spread == pytest.approx(0.062, abs=0.01)
    assert found["tasks_per_gib_over_copies"] == 7


class Machine:
    """Servers that only know whether they may run."""

    def __init__(self, count: int) -> None:
        self.may_run: set[int] = set(range(count))
        self.most = 0
        self.ran: set[int] = set()
        self.servers = [Server(self, number) for number in range(count)]


class Server:
    def __init__(self, machine: Machine, number: int) -> None:
        self._machine, self._number = machine, number

    def suspend(self) -> None:
        self._machine.may_run.discard(self._number)

    def resume(self) -> None:
        machine = self._machine
        machine.may_run.add(self._number)
        machine.ran.add(self._number)
        machine.most = max(machine.most, len(machine.may_run))


def test_in_slices_no_more_servers_run_than_there_are_cores_and_all_get_their_turn() -> None:
    machine = Machine(5)
    with sliced(machine.servers, 2, slice_s=0.001):
        until(lambda: len(machine.ran) == 5)
        most = machine.most

    assert most == 2
    assert machine.may_run == set(range(5)), "afterwards all run freely"


def test_servers_that_have_a_core_each_are_left_alone() -> None:
    machine = Machine(2)
    with sliced(machine.servers, 2):
        assert machine.may_run == {0, 1}
