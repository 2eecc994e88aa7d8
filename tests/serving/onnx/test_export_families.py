"""Exported graphs of rotary and gated backbones, and of features wider than the tokens, by ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from model_store.resolution import one_model
from model_store.store import Store
from serving.onnx import export
from tests.model_store.real import Real
from tests.petl_vit.backbones import relative

pytestmark = pytest.mark.onnx

SMALL = {"depth": 1, "embed_dim": 64, "num_heads": 2}


def real(folder: Path, architecture: str, *methods: str, **options: str) -> Real:
    made = Real(Store.open(str(folder)), architecture, **(SMALL | options))
    for name in methods:
        made.publish(name)
    return made


def ran(graph: bytes, inputs: dict[str, np.ndarray]) -> torch.Tensor:
    runtime = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (logits,) = runtime.run(None, inputs)
    return torch.from_numpy(logits)


@pytest.mark.parametrize("name", ["lora", "vpt-shallow"])
def test_one_model_on_a_rotary_gated_backbone_is_what_is_served(tmp_path: Path, name: str) -> None:
    made = real(tmp_path, "vit_small_plus_patch16_dinov3", name.replace("-", "_"))
    exported = export.plain(made.loader, one_model.resolve(made.store, name, "zoo"))
    found = ran(exported.graph, {"images": made.images.numpy()})
    assert relative(found, made.logits(name)) <= 1e-5


def test_a_bank_over_class_token_and_mean_is_what_is_served(tmp_path: Path) -> None:
    made = real(tmp_path, "vit_small_patch16_dinov3_qkvb", "lora", "vpt_deep", global_pool="token+avg")
    names = ("lora", "vpt-deep")
    terms = [one_model.resolve(made.store, name, "zoo").terms[0] for name in names]
    exported = export.banked(made.loader, made.task, terms)
    lanes = [lane[0]["method"].replace("_", "-") for lane in exported.document["lanes"]]
    for name in names:
        slots = np.array([[int(lane == name)] * 3 for lane in lanes])
        inputs = {"images": made.images.numpy(), "rows": np.arange(3), "slots": slots}
        found = ran(exported.graph, inputs | {"alphas": 0.6 * slots.astype(np.float32)})
        assert relative(found, made.logits(f"0.6*{name}")) <= 1e-5
