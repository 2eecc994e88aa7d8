from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import backends
from benchmarks.adapters import backbone
from petl_vit.device import has_bf16
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT

pytestmark = [pytest.mark.machine, pytest.mark.benchmarks]


def test_it_ends_with_its_figures(figures: Any) -> None:
    found = figures(backends.main, "--image-size", "32", "--rounds", "1", "--images", "20")

    keys = ("best_over_eager_b1", "best_over_eager_b8", "onnx_over_eager_b1", "onnx_over_eager_b8")
    assert all(isinstance(found[key], float) for key in (*keys, "top1_agreement"))
    assert isinstance(found["over_eager_b8"][backends.FP32], float)
    assert (found["reason"] is None) == has_bf16(backends.CPU)


def test_agreement_is_counted_even_where_bf16_is_emulated() -> None:
    vit, _ = backbone("test_vit", 32)

    agreed, accuracy = backends.agreement(vit, 40, emulated=True)

    assert agreed > 0.8
    assert accuracy > 0.2  # one in ten by chance


def test_agreement_is_the_share_of_images_that_all_answer_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(vit: FrozenViT, head: LinearHead, *, emulated: bool) -> dict[str, backends.Run]:
        exact = backends.torch_back_end(vit, head)

        def contrary(images: Tensor) -> Tensor:
            logits = exact(images)
            logits[::4] *= -1
            return logits

        return {backends.FP32: exact, "another": contrary}

    monkeypatch.setattr(backends, "back_ends", two)
    vit, _ = backbone("test_vit", 32)

    assert backends.agreement(vit, 40)[0] == 0.75


def test_textures_of_a_class_are_alike_and_of_others_are_not() -> None:
    one, classes = backends.textures(32, 20, seed=0)
    two, same = backends.textures(32, 20, seed=1)

    assert torch.equal(classes, same)
    assert classes.tolist() == [*range(10), *range(10)]
    own = (one[:10] - two[:10]).flatten(1).norm(dim=1)
    other = (one[:10] - two[:10].roll(1, 0)).flatten(1).norm(dim=1)
    assert bool((own < other).all())


@pytest.mark.skipif(has_bf16(backends.CPU), reason="this machine has bf16")
def test_without_hardware_bf16_is_left_out() -> None:
    vit, _ = backbone("test_vit", 32)

    assert list(backends.back_ends(vit, backends.base_head(vit))) == [backends.FP32, backends.ONNX]


def test_without_onnx_runtime_it_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    vit, _ = backbone("test_vit", 32)

    assert backends.ONNX not in backends.back_ends(vit, backends.base_head(vit))
