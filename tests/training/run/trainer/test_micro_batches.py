"""A step in parts has the gradients of the whole batch, to rounding, random numbers included."""

import pytest
import torch

from petl_vit import methods
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT
from tests.training.conftest import NEAR, recipe
from tests.training.run.trainer.runs import tensors, trainer
from training.data.loading import Resized
from training.run.trainer import Trained, train


def assert_near(one: Trained, other: Trained) -> None:
    """Of runs in float64."""
    assert one.losses == pytest.approx(other.losses, rel=1e-9)
    for name, tensor in tensors(one).items():
        expected = tensors(other)[name]
        assert float((tensor - expected).abs().max()) <= NEAR * float(expected.abs().max()), name


@pytest.mark.parametrize("name", methods.names())
@pytest.mark.numerics
def test_micro_batches_end_where_whole_batches_do(
    name: str, exact: FrozenViT, base_head: LinearHead, exact_images: Resized
) -> None:
    chosen = recipe(name, epochs=1, drop_path=0.3, augment="crop-flip")
    whole = trainer(exact, base_head, chosen).run(exact_images)
    assert_near(trainer(exact, base_head, chosen).run(exact_images, micro_batch=5), whole)


@pytest.mark.parametrize("name", ["vpt_deep", "vpt_shallow"])
@pytest.mark.numerics
def test_one_mask_for_the_batch_is_one_mask_for_its_micro_batches(
    name: str, exact: FrozenViT, base_head: LinearHead, exact_images: Resized
) -> None:
    chosen = recipe(name, epochs=1, config={"mask": "batch"})
    whole = trainer(exact, base_head, chosen).run(exact_images)
    assert_near(trainer(exact, base_head, chosen).run(exact_images, micro_batch=7), whole)


@pytest.mark.numerics
def test_adapters_that_learn_together_take_micro_batches_too(
    exact: FrozenViT, base_head: LinearHead, exact_images: Resized
) -> None:
    chosen = [recipe(name, epochs=1, seed=seed) for name, seed in (("lora", 0), ("ssf", 0), ("lora", 1))]
    whole = train([trainer(exact, base_head, one) for one in chosen], exact_images)
    parts = train([trainer(exact, base_head, one) for one in chosen], exact_images, micro_batch=6)
    for found, expected in zip(parts, whole, strict=True):
        assert_near(found, expected)


def test_a_micro_batch_as_large_as_the_batch_changes_no_bit(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    whole = trainer(vit, base_head, recipe(epochs=1)).run(images)
    same = trainer(vit, base_head, recipe(epochs=1)).run(images, micro_batch=100)
    assert all(torch.equal(t, tensors(same)[n]) for n, t in tensors(whole).items())
