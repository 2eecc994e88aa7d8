import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kill.operation import Event, Found, cut_off
from benchmarks.kill.world import World, adapter, look, make

pytestmark = [pytest.mark.machine, pytest.mark.benchmarks]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks processes that have imported torch")
def test_writers_that_are_killed_leave_a_whole_store_and_lose_nothing() -> None:
    """In a process of its own, as one that has used gRPC cannot be forked.

    Sweeps and servers, which take longer, are killed in test_sweep.py and test_killed.py.
    """
    killed = [f"--operation={name}" for name in ("register", "alias switch", "soup", "delete", "gc")]
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.kill", "--rounds=5", *killed],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert '"lost": 0, "broken": 0' in ran.stdout.splitlines()[-1]


def test_a_half_adapter_is_found(tmp_path: Path) -> None:
    world = make(tmp_path)
    manifest = world.store.adapters.publish(world.draft("lora"), adapter(world.vit, 1))
    assert look(world).broken == []

    next((tmp_path / "store").glob(f"adapters/*/lora/{manifest.version}/adapter.safetensors")).unlink()
    assert any("lora/1" in problem for problem in look(World(tmp_path)).broken)


def test_a_write_that_was_not_acknowledged_is_no_loss() -> None:
    begun, done = Event(kind="begun", facts=("a",)), Event(kind="done", facts=("a", 1))
    assert cut_off([begun]) == ("a",)
    assert cut_off([begun, done]) is None
    found = Found()
    found.expect(True, "kept")
    found.expect(False, "gone")
    assert found.lost == ["gone"]
