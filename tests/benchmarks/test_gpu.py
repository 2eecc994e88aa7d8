"""The benchmark of a GPU says what is missing without one, and its sections run on a CPU."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu

pytestmark = pytest.mark.benchmarks


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_and_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    said = capsys.readouterr()
    assert "--cpu-check" in said.err
    assert not said.out


def test_a_section_that_fails_leaves_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(stage: object) -> gpu.Found:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(gpu, "SECTIONS", {"ensemble": gpu.SECTIONS["ensemble"], "peft": fail})
    assert gpu.main(["--cpu-check", "--out", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["over_peft"] is None
    assert "no such thing" in found["errors"]["peft"]
    assert found["ensemble5_latency_over_single"] > 0
