from itertools import product
from typing import Any

import pytest
import torch

from petl_vit import methods
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import CLASSES, SMALL, images_of
from tests.petl_vit.backbones import FAMILIES, family
from tests.training.conftest import recipe
from tests.training.run.trainer.runs import tensors, trainer
from training.data.loading import Resized
from training.run.feed import Batch
from training.run.precision import frozen
from training.run.trainer import Trainer, losses_of


def one_step(subject: Trainer, images: Resized) -> float:
    """The loss of one step over all images; gradients stay."""
    subject.begin_epoch(0, 1)
    everything = torch.arange(len(images))
    batch = Batch(inputs=images.batch(everything), labels=images.labels)
    (loss,) = losses_of([subject], [batch], [0])
    assert loss.dtype == torch.float32
    loss.backward()
    return loss.item()


ALL_ON_TWO = list(product(methods.names(), ("plain", "siglip")))
ONE_ON_THE_OTHERS = [("lora", kind) for kind in FAMILIES if ("lora", kind) not in ALL_ON_TWO]


@pytest.mark.parametrize(("name", "kind"), ALL_ON_TWO + ONE_ON_THE_OTHERS)
@pytest.mark.numerics
def test_a_step_in_bf16_has_the_loss_of_fp32_and_a_finite_float32_gradient_everywhere(
    name: str, kind: str
) -> None:
    vit, _ = family(kind)
    kept = {} if "dropout" not in methods.get(name).model_fields else {"dropout": 0.0}
    config = SMALL.get(name, {}) | kept
    base = LinearHead.init(CLASSES, vit.arch.features, torch.Generator().manual_seed(1))
    inputs, labels = images_of(vit, 8), torch.arange(8) % CLASSES
    losses, gradients = [], []
    for precision in ("fp32", "bf16"):
        chosen = recipe(name, config=config, drop_path=0.0, head_init="random", precision=precision)
        subject = trainer(vit, base, chosen)
        subject.begin_epoch(0, 1)
        (loss,) = losses_of([subject], [Batch(inputs=inputs, labels=labels)], [0])
        loss.backward()
        losses.append(loss.item())
        found = {n: t.grad for n, t in subject.parameters.items()}
        for tensor_name, gradient in found.items():
            assert gradient is not None, tensor_name
            assert gradient.dtype == torch.float32, tensor_name
            assert gradient.isfinite().all(), tensor_name
        gradients.append(torch.cat([g.flatten() for g in found.values() if g is not None]))
    assert losses[1] == pytest.approx(losses[0], rel=5e-2)
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 0.1
    assert losses[1] != losses[0]  # it did compute in bf16


def test_in_bf16_the_frozen_backbone_takes_half_the_memory_and_the_one_that_was_given_stays(
    vit: FrozenViT,
) -> None:
    half = frozen(vit, "bf16")
    assert {p.dtype for p in vit.params.values()} == {torch.float32}
    sizes = [sum(p.nbytes for p in some.params.values()) for some in (vit, half)]
    assert sizes[1] < 0.51 * sizes[0]
    assert half.params["blocks.0.mlp.fc1.weight"].dtype == torch.bfloat16
    assert half.params["blocks.0.norm1.weight"].dtype == half.dtype == torch.float32
    assert all(p is vit.params[name] for name, p in frozen(vit, "fp32").params.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["lora", "bitfit", "selective", "full"])
def test_what_is_frozen_has_neither_gradients_nor_a_state_in_the_optimiser(
    method: str, precision: str, vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    subject = trainer(vit, base_head, recipe(method, precision=precision))
    one_step(subject, images)
    subject.advance()
    own, kept = subject.parameters, subject.optimizer.state
    assert {id(t) for t in kept} == {id(t) for t in own.values()}
    assert {t.dtype for t in own.values()} == {torch.float32}
    assert {t.dtype for state in kept.values() for t in state.values()} == {torch.float32}
    elements = sum(t.numel() for t in own.values())
    assert sum(t.numel() for state in kept.values() for t in state.values() if t.dim()) == 2 * elements
    for parameter in (*vit.params.values(), *subject.vit.params.values()):
        assert parameter.grad is None
        assert not parameter.requires_grad


@pytest.mark.parametrize("method", ["lora", "vpt_deep", "layernorm", "full"])
@pytest.mark.numerics
def test_a_run_in_bf16_learns_and_ends_in_float32_near_that_of_fp32(
    method: str, vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    settings: dict[str, Any] = {"epochs": 2, "drop_path": 0.0, "head_init": "random", "learning_rate": 3e-3}
    plain = trainer(vit, base_head, recipe(method, **settings)).run(images)
    half = trainer(vit, base_head, recipe(method, precision="bf16", **settings)).run(images)
    assert half.losses[-1] < half.losses[0]
    assert half.losses == pytest.approx(plain.losses, rel=5e-2)
    assert {t.dtype for t in tensors(half).values()} == {torch.float32}
