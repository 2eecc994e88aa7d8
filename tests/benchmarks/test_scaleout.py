"""The benchmark of replicas on a real Ray, small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray.serve", reason="the extra `ray` is not installed")

from benchmarks import scaleout
from benchmarks.ray_cluster import cannot_isolate
from tests.benchmarks.conftest import TINY
from tests.waiting import WAIT_S

ROOT = Path(__file__).parents[2]
SMALL = ("--quick", "--image-size", "32", "--rounds", "1", "--requests", "16", "--calls", "64")

pytestmark = [pytest.mark.machine, pytest.mark.benchmarks]


@pytest.mark.slow
@pytest.mark.skipif(cannot_isolate() is not None, reason=f"needs a network namespace: {cannot_isolate()}")
def test_it_ends_with_its_figures() -> None:
    command = [sys.executable, "-m", "benchmarks.scaleout", *TINY, *SMALL]
    surroundings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=4 * WAIT_S
    )

    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    of_all = [
        f"{figure}_{name}"
        for figure in ("images_per_s", "latency_ms", "cpu_ms")
        for name in ("bare", "1", "2")
    ]
    assert all(found[key] > 0 for key in of_all)
    assert found["ingress_ms"] == pytest.approx(found["latency_ms_1"] - found["latency_ms_bare"], abs=0.01)
    assert found["in_flight"] == 32
    for name in ("affine", "random"):
        assert 0 <= found[f"loads_per_call_{name}"] <= 1


def test_without_a_network_namespace_it_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaleout.ray_cluster, "cannot_isolate", lambda: "no rights")

    with pytest.raises(SystemExit) as ended:
        scaleout.main([*TINY, *SMALL])

    assert ended.value.code == 2
    assert "it needs a network namespace: no rights" in capsys.readouterr().err
