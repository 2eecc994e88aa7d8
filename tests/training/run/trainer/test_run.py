import copy
import math
from itertools import chain, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from petl_vit import methods
from petl_vit.errors import InvalidInput
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT
from tests.training.conftest import recipe
from tests.training.run.trainer.runs import assert_equal, tensors, trainer
from training.data.loading import Resized


@pytest.mark.parametrize("method", methods.names())
def test_the_loss_falls_and_the_backbone_stays_as_it_is_bit_for_bit(
    method: str, vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    before = {name: tensor.clone() for name, tensor in vit.params.items()}
    chosen = recipe(method, epochs=6, drop_path=0.0, head_init="random", learning_rate=3e-3)
    trained = trainer(vit, base_head, chosen).run(images)
    assert len(trained.losses) == 6
    assert trained.losses[-1] < 0.95 * trained.losses[0]
    assert_equal(dict(vit.params), before)
    assert not any(tensor.requires_grad for tensor in vit.params.values())
    assert trained.tensors.keys() == methods.get(method)().shapes(vit.arch).keys()


def test_training_changes_every_tensor_of_the_adapter_and_its_head_but_not_the_base_head(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    method, kept = methods.get("lora")(), base_head.weight.clone()
    start = method.init(vit, torch.Generator().manual_seed(0))
    trained = trainer(vit, base_head, recipe()).run(images)
    assert all(not torch.equal(tensor, start[name]) for name, tensor in trained.tensors.items())
    assert not torch.equal(trained.head.weight, base_head.weight)
    assert torch.equal(base_head.weight, kept)
    assert not any(tensor.requires_grad for tensor in tensors(trained).values())


@pytest.mark.numerics
def test_the_same_seed_gives_the_same_tensors_and_another_seed_others(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    chosen = recipe(augment="crop-flip")
    first = trainer(vit, base_head, chosen).run(images)
    torch.manual_seed(123)  # what the process did before does not matter
    assert_equal(tensors(first), tensors(trainer(vit, base_head, chosen).run(images)))
    other = trainer(vit, base_head, recipe(augment="crop-flip", seed=1)).run(images)
    assert not torch.equal(other.head.weight, first.head.weight)


@pytest.mark.parametrize("method", ["lora", "adaptformer", "vpt_deep", "full"])
@pytest.mark.numerics
def test_a_run_that_stopped_after_an_epoch_ends_as_if_it_never_had(
    method: str, vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    states: list[dict[str, Any]] = []

    def save(state: dict[str, Any]) -> None:
        states.append(copy.deepcopy(state))

    chosen = recipe(method, epochs=3, drop_path=0.3, augment="crop-flip")
    whole = trainer(vit, base_head, chosen, save=save).run(images)
    assert [state["epoch"] for state in states] == [1, 2, 3]
    for state in states:
        torch.manual_seed(99)
        later = trainer(vit, base_head, chosen)
        assert later.resume(state) == state["epoch"]
        rest = later.run(images)
        assert_equal(tensors(rest), tensors(whole))
        assert rest.losses == whole.losses


def test_dropout_and_drop_path_act_in_training(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    plain = trainer(vit, base_head, recipe(config={"dropout": 0.0}, drop_path=0.0)).run(images)
    for changed in (recipe(drop_path=0.0), recipe(config={"dropout": 0.0}, drop_path=0.5)):
        assert not torch.equal(trainer(vit, base_head, changed).run(images).head.weight, plain.head.weight)


def test_a_random_head_starts_elsewhere_than_the_probe(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    still = {"learning_rate": 1e-12, "weight_decay": 0.0, "epochs": 1}
    probed = trainer(vit, base_head, recipe(**still)).run(images)
    random = trainer(vit, base_head, recipe(head_init="random", **still)).run(images)
    assert torch.allclose(probed.head.weight, base_head.weight, atol=1e-6)
    assert random.head.weight.abs().max() <= vit.arch.width**-0.5 + 1e-6
    assert not torch.allclose(random.head.weight, base_head.weight, atol=1e-3)
    assert random.losses[0] > probed.losses[0]


def test_a_loss_that_is_no_longer_finite_stops_the_run_and_says_what_to_do(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    broken = LinearHead(weight=torch.full_like(base_head.weight, math.inf), bias=base_head.bias)
    with pytest.raises(
        InvalidInput, match=r"learning_rate: the loss became nan in epoch 1; train with a lower one"
    ) as error:
        trainer(vit, broken, recipe()).run(images)
    assert error.value.field == "learning_rate"


@pytest.mark.parametrize("behind", [1, 3])
def test_losses_that_are_read_steps_later_as_on_a_gpu_change_nothing(
    behind: int, vit: FrozenViT, base_head: LinearHead, images: Resized, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[float]] = [[], []]
    at_once = trainer(vit, base_head, recipe()).run(images, progress=seen[0].append)
    monkeypatch.setattr("training.run.trainer._steps_behind", lambda device: behind)

    later = trainer(vit, base_head, recipe()).run(images, progress=seen[1].append)

    assert seen[1] == seen[0]
    assert later.losses == at_once.losses
    assert_equal(tensors(later), tensors(at_once))
    broken = LinearHead(weight=torch.full_like(base_head.weight, math.inf), bias=base_head.bias)
    with pytest.raises(InvalidInput, match="the loss became nan in epoch 1"):
        trainer(vit, broken, recipe()).run(images)


def test_a_last_step_that_leaves_the_numbers_behind_is_seen_without_another_loss(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    states: list[dict[str, Any]] = []
    trainer(vit, base_head, recipe(epochs=1), save=states.append).run(images)
    states[0]["head"]["head.bias"].fill_(math.nan)
    done = trainer(vit, base_head, recipe(epochs=1))
    done.resume(states[0])
    with pytest.raises(InvalidInput, match=r"head\.bias is no longer finite"):
        done.run(images)


def test_the_rate_rises_for_the_warm_up_and_falls_along_a_cosine_to_a_hundredth(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    rates: list[float] = []
    chosen = recipe("linear", epochs=10, batch_size=16, warmup_ratio=0.25, learning_rate=0.01)
    subject = trainer(vit, base_head, chosen)
    assert subject.steps(images) == 4
    subject.run(images, progress=lambda loss: rates.append(subject.optimizer.param_groups[0]["lr"]))
    assert rates[:10] == pytest.approx([0.001 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.01)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert rates[25] == pytest.approx(0.01 * (0.01 + 0.99 / 2))  # half-way down
    assert 0.0001 < rates[-1] < 0.00025


def test_every_image_is_seen_once_in_an_epoch_in_an_order_that_changes(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    seen: list[list[int]] = []

    class Counted(Resized):
        def batch(self, indices: Tensor, augment: torch.Generator | None = None) -> Tensor:
            seen.append(indices.tolist())
            assert augment is None  # none was asked for
            return super().batch(indices, augment)

    images.__class__ = Counted
    trainer(vit, base_head, recipe("linear", epochs=2)).run(images)
    first, second = list(chain(*seen[:4])), list(chain(*seen[4:]))
    assert sorted(first) == sorted(second) == list(range(60))
    assert first != second
