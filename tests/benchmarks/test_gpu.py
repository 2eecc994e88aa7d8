"""The benchmark of a GPU says what is missing without one, and its sections run on a CPU."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_forward
from petl_vit.batch import Model, Row, Term
from tests.petl_vit.adapters import adapter_of, images_of
from tests.petl_vit.backbones import family, relative

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


@pytest.mark.parametrize("kind", ["torch", "graph"])
def test_batches_in_place_answer_in_the_order_of_their_rows(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_forward, "ARENA_BYTES", 2**26)
    if kind == "graph":
        pytest.importorskip("triton")
    vit = family("plain")[0]
    adapters = [adapter_of("bitfit", vit, 1), adapter_of("linear", vit), adapter_of("bitfit", vit, 0)]
    rows = [Row(image=i, model=Model([Term(adapter=one)])) for i, one in enumerate(adapters)]
    images, ours = images_of(vit, len(rows)), gpu_forward.Ours(vit, kind)
    expected = ours.from_host(images, rows)()

    found = ours.in_place(images, rows)()

    for in_place, from_host in zip(found, expected, strict=True):
        assert relative(in_place, from_host) <= 1e-5
