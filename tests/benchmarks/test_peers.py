from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import peers
from benchmarks.adapters import backbone, tensors
from benchmarks.peers_inside import copies
from benchmarks.peers_inside.candidates import OURS, check_same
from benchmarks.peers_served import phases, servers
from benchmarks.peers_served.servers import LITSERVE, TORCHSERVE

pytestmark = [pytest.mark.machine, pytest.mark.benchmarks]

SMALL = ("--image-size", "32", "--small-image-size", "16", "--rounds", "1", "--adapters", "2")
KEYS = ("over_copies_fp32", "over_other_peers_fp32", "over_best_peer_fp32", "memory_over_copies")
PEFT_KEYS = ("over_peft_fp32", "over_peft_fp32_64px")


@pytest.mark.slow
def test_it_ends_with_its_figures(figures: Any) -> None:
    found = figures(peers.main, "--quick", *SMALL, "--precision", "fp32")

    assert all(isinstance(found[key], float) for key in (*KEYS, *PEFT_KEYS))
    assert isinstance(found["over_best_peer"], float) or found["over_best_peer_reason"]
    assert found["over_litserve_fp32"] is found["over_torchserve_fp32"] is None


@pytest.mark.slow
@pytest.mark.skipif(not servers.installed(LITSERVE), reason="LitServe is not installed")
@pytest.mark.skipif(not servers.installed(TORCHSERVE), reason="TorchServe is not installed")
def test_served_peers_answer_as_we_do() -> None:
    found = phases.measure("test_vit", 32, adapters=2, requests=4, rounds=1)

    assert found.taken.keys() >= {OURS, LITSERVE, TORCHSERVE}
    assert all(size > 0 for size in found.private_bytes.values())


def test_a_candidate_with_other_results_is_refused() -> None:
    with pytest.raises(RuntimeError, match="other results"):
        check_same("peer", np.array([1.0, 2.0]), np.array([1.0, 2.1]))


def test_a_merged_model_reads_back_as_it_was_written(tmp_path: Path) -> None:
    vit, _ = backbone("test_vit", 32)
    model = copies.merged(tensors("lora", vit, 0), vit)
    images = torch.randn(2, 3, 32, 32)

    copies.save(model, tmp_path / "model.safetensors")
    again = copies.read(tmp_path / "model.safetensors", "test_vit", 32)

    assert torch.equal(again(images), model(images))
