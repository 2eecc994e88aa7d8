"""The simulation agrees with what queueing theory and counting say where they have an answer."""

import pytest

from benchmarks.fleet import Placement, Replica, Traffic, simulate

ONE = Replica(batch_ms=0.0, row_ms=10.0, max_batch_rows=1, memory=10, load_ms=0.0, fetch_ms=0.0)


def test_one_row_at_a_time_waits_as_in_theory() -> None:
    """M/D/1 at load 0.5: half a service time in the queue, on average."""
    found = simulate(ONE, 1, Traffic(per_s=50, adapters=1, exponent=0, seconds=200), Placement.RANDOM)

    assert sum(found.waits_ms) / len(found.waits_ms) == pytest.approx(15, rel=0.08)
    assert found.busy == [pytest.approx(0.5, abs=0.02)]


def test_batches_carry_what_single_rows_could_not() -> None:
    replica = Replica(batch_ms=9.0, row_ms=1.0, max_batch_rows=32, memory=10, load_ms=0, fetch_ms=0)
    traffic = Traffic(per_s=500, adapters=1, exponent=0, seconds=10)

    found = simulate(replica, 1, traffic, Placement.RANDOM)

    assert replica.rows_per_s == pytest.approx(32 / 0.041)
    assert found.percentile(99) < 100
    assert len(found.waits_ms) == pytest.approx(5_000, rel=0.05)


def test_adapters_that_fit_are_fetched_once_by_each_replica_that_is_asked() -> None:
    replica = Replica(batch_ms=0, row_ms=0.1, memory=100, load_ms=1, fetch_ms=1)
    traffic = Traffic(per_s=1000, adapters=40, exponent=0, seconds=3)

    by_chance = simulate(replica, 4, traffic, Placement.RANDOM)
    by_place = simulate(replica, 4, traffic, Placement.AFFINITY)

    assert by_chance.loads["store"] == 4 * 40
    assert by_place.loads["store"] <= 2 * 40
    assert by_chance.loads["disk"] == by_place.loads["disk"] == 0


def test_affinity_keeps_in_memory_what_chance_evicts() -> None:
    replica = Replica(batch_ms=0, row_ms=0.1, memory=150, disk=400, load_ms=1, fetch_ms=50)
    traffic = Traffic(per_s=1000, adapters=400, exponent=0.5, seconds=8, warm_s=4)

    by_chance = simulate(replica, 8, traffic, Placement.RANDOM)
    by_place = simulate(replica, 8, traffic, Placement.AFFINITY)

    assert by_place.share("memory") > 0.95 > by_chance.share("memory")


def test_a_hot_adapter_is_not_held_up_by_its_place() -> None:
    replica = Replica(batch_ms=5, row_ms=1, max_batch_rows=8, memory=10, load_ms=1, fetch_ms=1)
    traffic = Traffic(per_s=2.5 * replica.rows_per_s, adapters=1, exponent=0, seconds=5, warm_s=1)

    found = simulate(replica, 4, traffic, Placement.AFFINITY)

    assert min(found.busy) > 0.3, "others help the two that hold it"
    assert found.percentile(99) < 200
