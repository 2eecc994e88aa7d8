"""What a run takes is told before it starts, and what does not fit runs in micro-batches or is refused."""

import pytest

from petl_vit import heap
from petl_vit.errors import InvalidInput
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT
from tests.training.conftest import recipe
from tests.training.run.trainer.runs import trainer
from training.data.loading import Resized
from training.run.memory import SHARE, fitting, need
from training.run.trainer import Trainer


@pytest.fixture
def lora(vit: FrozenViT, base_head: LinearHead) -> Trainer:
    return trainer(vit, base_head, recipe(batch_size=32))


def test_more_images_and_more_adapters_take_more_in_proportion(
    lora: Trainer, vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    one = need([lora], images)
    assert one.of(32) - one.of(16) == 16 * one.image > 0
    several = [lora, trainer(vit, base_head, recipe(batch_size=32))]
    assert 1.8 * one.image < need(several, images).image <= 2 * one.image
    assert need(several, images).trained > one.trained


def test_the_frozen_backbone_keeps_less_than_a_trained_one(
    lora: Trainer, vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    full = need([trainer(vit, base_head, recipe("full", batch_size=32))], images)
    assert full.trained > need([lora], images).trained + 5 * sum(p.nbytes for p in vit.params.values()) // 2
    assert full.image > need([lora], images).image


def test_a_batch_that_fits_runs_whole_and_what_it_takes_is_told(lora: Trainer, images: Resized) -> None:
    notes: list[str] = []
    assert fitting([lora], images, None, notes.append, usable=2**40) is None
    (told,) = notes
    assert told.startswith("training takes about ")
    assert "MiB of memory besides the " in told


def test_blocks_of_a_forward_stay_small_enough_to_be_used_again(
    lora: Trainer, images: Resized, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heap, "LARGEST_BLOCK", 12 * 5 * 768 * 4)  # 5 tokens, 768 hidden
    assert fitting([lora], images, None, lambda text: None, usable=2**40) == 12
    assert fitting([lora, lora], images, None, lambda text: None, usable=2**40) == 6
    assert fitting([lora], images, 20, lambda text: None, usable=2**40) == 20


def test_a_batch_that_does_not_fit_runs_in_micro_batches_that_do(lora: Trainer, images: Resized) -> None:
    notes: list[str] = []
    usable = int(need([lora], images).of(10) / SHARE) + 1
    assert fitting([lora], images, None, notes.append, usable=usable) == 10
    assert "micro-batches of 10 images, as 32 would take" in notes[-1]


def test_a_micro_batch_that_does_not_fit_is_refused_with_one_that_does(
    lora: Trainer, images: Resized
) -> None:
    usable = int(need([lora], images).of(10) / SHARE) + 1
    with pytest.raises(InvalidInput, match=r"20 images at once.*use --micro-batch 10") as error:
        fitting([lora], images, 20, lambda text: None, usable=usable)
    assert error.value.field == "micro_batch"
    assert fitting([lora], images, 5, lambda text: None, usable=usable) == 5


def test_a_run_of_which_not_one_image_fits_is_refused(lora: Trainer, images: Resized) -> None:
    with pytest.raises(InvalidInput, match="smaller backbone or --image-size"):
        fitting([lora], images, None, lambda text: None, usable=2**16)
