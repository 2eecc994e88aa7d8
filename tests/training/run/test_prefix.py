"""What lies below everything that is trained is computed once, and changes nothing."""

import pytest

from petl_vit import methods
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT
from tests.training.conftest import NEAR, SPEC, recipe
from tests.training.run.trainer.runs import tensors, trainer
from training.data.loading import Resized
from training.data.pixels import Augmentation
from training.data.records import Dataset
from training.run import prefix
from training.run.features import Features
from training.run.recipe import Recipe
from training.run.trainer import Trained, Trainer, train


def assert_near(one: Trained, other: Trained) -> None:
    """Of runs in float64."""
    assert one.losses == pytest.approx(other.losses, rel=1e-9)
    for name, tensor in tensors(one).items():
        expected = tensors(other)[name]
        assert float((tensor - expected).abs().max()) <= NEAR * float(expected.abs().max()), name


def given_once(trainers: list[Trainer], images: Resized, chosen: Recipe) -> Features:
    block = prefix.first_block(trainers)
    for one in trainers:
        one.start = block
    return Features(images, chosen, trainers[0].vit, block=block)


@pytest.mark.parametrize("augment", ["none", "flip"])
@pytest.mark.parametrize(
    ("name", "drop_path"),
    [("lora", 0.3), ("bitfit", 0.0), ("vqt", 0.3), ("vpt_shallow", 0.0), ("selective", 0.0)],
)
@pytest.mark.numerics
def test_a_run_on_what_was_computed_once_is_the_same_to_rounding(
    name: str,
    drop_path: float,
    augment: Augmentation,
    dataset: Dataset,
    exact: FrozenViT,
    base_head: LinearHead,
) -> None:
    chosen = recipe(name, epochs=2, drop_path=drop_path, augment=augment)
    images = Resized(dataset, SPEC, exact, augmentation=augment)
    every, once = (trainer(exact, base_head, chosen) for _ in range(2))
    kept = given_once([once], images, chosen)
    assert_near(once.run(kept), every.run(images))


@pytest.mark.numerics
def test_adapters_that_learn_together_start_from_it_too(
    dataset: Dataset, exact: FrozenViT, base_head: LinearHead
) -> None:
    chosen = [
        recipe(name, epochs=1, seed=seed) for name, seed in (("lora", 0), ("adaptformer", 0), ("ssf", 1))
    ]
    images = Resized(dataset, SPEC, exact)
    every, once = ([trainer(exact, base_head, one) for one in chosen] for _ in range(2))
    for found, expected in zip(
        train(once, given_once(once, images, chosen[0])), train(every, images), strict=True
    ):
        assert_near(found, expected)


@pytest.mark.parametrize(
    ("name", "drop_path", "block"),
    [
        ("lora", 0.0, 0),
        ("ssf", 0.0, 0),
        ("vqt", 0.0, 0),
        ("selective", 0.0, 1),  # the last of two
        ("selective", 0.1, 1),  # the first block has no drop path
        ("full", 0.0, None),
    ],
)
def test_what_is_trained_and_drop_path_say_where_it_ends(
    name: str, drop_path: float, block: int | None, vit: FrozenViT, base_head: LinearHead
) -> None:
    assert prefix.first_block([trainer(vit, base_head, recipe(name, drop_path=drop_path))]) == block


def test_no_method_says_less_than_it_changes(vit: FrozenViT, base_head: LinearHead) -> None:
    for name in methods.names():
        block = prefix.first_block([trainer(vit, base_head, recipe(name, drop_path=0.0))])
        assert block == {"full": None, "linear": 1, "selective": 1}.get(name, 0), name


def test_images_that_change_and_too_many_images_are_not_kept(
    vit: FrozenViT, base_head: LinearHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = [trainer(vit, base_head, recipe())]
    assert prefix.is_kept(one, 0, 60, recipe())
    assert prefix.is_kept(one, 0, 60, recipe(augment="flip"))
    assert not prefix.is_kept(one, 0, 60, recipe(augment="crop-flip"))
    monkeypatch.setattr(prefix, "KEPT_BYTES", 60 * 4 * 192 * 4)
    assert prefix.is_kept(one, 0, 60, recipe())
    assert not prefix.is_kept(one, 0, 61, recipe())
    assert not prefix.is_kept(one, 0, 60, recipe(augment="flip"))
