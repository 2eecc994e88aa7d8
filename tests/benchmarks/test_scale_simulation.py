import json

import pytest

from benchmarks import scale_simulation
from benchmarks.fleet import Placement, Replica, Traffic

pytestmark = pytest.mark.benchmarks

REPLICA = Replica(batch_ms=5, row_ms=5, memory=50, disk=100, load_ms=1, fetch_ms=20)


def test_it_ends_with_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    scale_simulation.main(["--quick", "--images-per-day", "1e6", "--adapters", "50", "--seconds", "4"])

    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["rows_per_s_at_peak"] == pytest.approx(3e6 / 86_400)
    assert found["replicas_random"] >= found["replicas_affinity"] >= 1
    assert found["affinity_at_its_best"]["p99_ms"] <= found["p99_ms"]


def test_the_smallest_fleet_keeps_the_bound_and_one_less_does_not() -> None:
    traffic = Traffic(per_s=600, adapters=20, exponent=0, seconds=6, warm_s=3)

    tries, best = scale_simulation.sought(REPLICA, traffic, Placement.RANDOM, p99_ms=60, most=20)

    assert best is not None
    assert best.outcome.percentile(99) <= 60
    fewer = [each for each in tries if each.replicas == best.replicas - 1]
    assert all(each.outcome.percentile(99) > 60 for each in fewer)
    assert fewer or best.replicas == 4


def test_a_bound_that_no_fleet_keeps_is_said() -> None:
    traffic = Traffic(per_s=100, adapters=20, exponent=0, seconds=2, warm_s=1)

    tries, best = scale_simulation.sought(REPLICA, traffic, Placement.RANDOM, p99_ms=1, most=3)

    assert best is None
    assert [each.replicas for each in tries] == [1, 2, 3]
