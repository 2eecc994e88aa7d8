import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from petl_vit import methods
from petl_vit.errors import InvalidInput
from petl_vit.executors.joint import check_joins
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT
from tests.training.conftest import NEAR, SPEC, recipe
from tests.training.run.trainer.runs import tensors, trainer
from training.data.loading import Resized
from training.data.records import Dataset
from training.run.trainer import Trained, Trainer, train

JOINING = ["adaptformer", "bitfit", "convpass", "difffit", "dora", "fact_tk", "fact_tt", "houlsby", "ia3"]
JOINING += ["layernorm", "linear", "lora", "pfeiffer", "repadapter", "ssf", "vera", "vpt_deep"]


def lanes(vit: FrozenViT, base_head: LinearHead, **values: Any) -> list[Trainer]:
    """One adapter of every method that joins, and LoRA twice more: with another seed, and another rate."""
    chosen = [recipe(name, **values) for name in JOINING]
    chosen += [recipe(seed=1, **values), recipe(seed=2, learning_rate=1e-2, **values)]
    return [trainer(vit, base_head, one, name=f"{one.method}-{place}") for place, one in enumerate(chosen)]


def assert_near(one: Trained, other: Trained) -> None:
    """Of runs in float64."""
    assert one.losses == pytest.approx(other.losses, rel=1e-9)
    for name, tensor in tensors(one).items():
        expected = tensors(other)[name]
        assert tensor.dtype == torch.float64, name
        assert float((tensor - expected).abs().max()) <= NEAR * float(expected.abs().max()), name


def test_what_joins_is_all_but_four_methods() -> None:
    for name in JOINING:
        check_joins(methods.get(name))
    assert set(methods.names()) - set(JOINING) == {"full", "selective", "vpt_shallow", "vqt"}


def without_dropout(vit: FrozenViT, base_head: LinearHead) -> list[Trainer]:
    """Some of them; all of them join without noise in tests/petl_vit/executors/test_joint.py."""
    chosen = []
    for seed, name in ((0, "lora"), (0, "vpt_deep"), (0, "convpass"), (0, "linear"), (1, "lora")):
        config = {"dropout": 0.0} if "dropout" in methods.get(name).model_fields else {}
        chosen.append(recipe(name, config=config, drop_path=0.0, seed=seed, augment="flip"))
    return [trainer(vit, base_head, one) for one in chosen]


@pytest.mark.numerics
def test_adapters_that_learn_together_without_dropout_end_as_each_does_alone(
    exact: FrozenViT, base_head: LinearHead, exact_images: Resized
) -> None:
    together = train(without_dropout(exact, base_head), exact_images)
    for found, alone in zip(together, without_dropout(exact, base_head), strict=True):
        assert_near(found, alone.run(exact_images))


@pytest.mark.numerics
def test_dropout_and_drop_path_are_those_that_each_has_alone(
    exact: FrozenViT, base_head: LinearHead, exact_images: Resized
) -> None:
    values: dict[str, Any] = {"drop_path": 0.3, "augment": "crop-flip"}
    together = train(lanes(exact, base_head, **values), exact_images)
    for found, alone in zip(together, lanes(exact, base_head, **values), strict=True):
        assert_near(found, alone.run(exact_images))


def test_adapters_of_one_seed_share_the_reading_of_their_images(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    read: list[int] = []

    class Counted(Resized):
        def batch(self, indices: Tensor, augment: torch.Generator | None = None) -> Tensor:
            read.append(len(indices))
            return super().batch(indices, augment)

    images.__class__ = Counted
    chosen = [
        recipe("lora", epochs=1, seed=seed, learning_rate=rate) for seed in (0, 1) for rate in (1e-3, 1e-2)
    ]
    train([trainer(vit, base_head, one) for one in chosen], images)
    assert sum(read) == 2 * 60


@pytest.mark.numerics
def test_a_joint_run_that_stopped_between_two_saves_ends_as_if_it_never_had(
    exact: FrozenViT, base_head: LinearHead, exact_images: Resized
) -> None:
    def pair(saved: list[list[dict[str, Any]]]) -> list[Trainer]:
        chosen = [recipe("lora", epochs=3, drop_path=0.3), recipe("ssf", epochs=3, drop_path=0.3)]
        return [
            trainer(exact, base_head, one, save=lambda state, own=own: own.append(copy.deepcopy(state)))
            for one, own in zip(chosen, saved, strict=True)
        ]

    states: list[list[dict[str, Any]]] = [[], []]
    whole = train(pair(states), exact_images)
    for first, second in ((0, None), (1, 0), (1, 1), (2, 1)):
        resumed = pair([[], []])
        resumed[0].resume(copy.deepcopy(states[0][first]))  # the optimiser goes on in what it is given
        if second is not None:
            resumed[1].resume(copy.deepcopy(states[1][second]))
        shown: list[float] = []
        rest = train(resumed, exact_images, progress=shown.append)
        assert len(shown) == 4 * (3 - (0 if second is None else second + 1))  # steps of those furthest behind
        for found, expected in zip(rest, whole, strict=True):
            assert_near(found, expected)


def test_a_loss_that_diverged_among_several_names_its_adapter_and_its_rate(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    broken = LinearHead(weight=torch.full_like(base_head.weight, math.inf), bias=base_head.bias)
    sound = trainer(vit, base_head, recipe("ssf"), name="fine")
    wild = trainer(vit, broken, recipe(learning_rate=1e-2), name="wild")
    with pytest.raises(InvalidInput, match=r"rate: the loss of wild became nan in epoch 1; .* than 0\.01"):
        train([sound, wild], images)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_adapters_learn_together_as_alone_and_as_on_the_host(
    precision: str, vit: FrozenViT, base_head: LinearHead, dataset: Dataset, images: Resized
) -> None:
    device = torch.device("cuda")
    there = vit.to(device=device)
    chosen = [
        recipe(name, precision=precision, config=config, drop_path=0.0)
        for name, config in (("lora", {"dropout": 0.0}), ("ssf", {}), ("vpt_deep", {"dropout": 0.0}))
    ]
    on_device = Resized(dataset, SPEC, there)
    together = train([trainer(there, base_head, one) for one in chosen], on_device)
    for found, one in zip(together, chosen, strict=True):
        assert found.losses == pytest.approx(trainer(there, base_head, one).run(on_device).losses, rel=2e-2)
        assert found.losses == pytest.approx(trainer(vit, base_head, one).run(images).losses, rel=5e-2)


@pytest.mark.gpu
def test_on_a_gpu_dropout_and_drop_path_are_those_that_each_has_alone(
    vit: FrozenViT, base_head: LinearHead, dataset: Dataset
) -> None:
    there = vit.to(device=torch.device("cuda"))
    images = Resized(dataset, SPEC, there)
    values: dict[str, Any] = {"drop_path": 0.3}
    together = train(lanes(there, base_head, **values), images)
    for found, alone in zip(together, lanes(there, base_head, **values), strict=True):
        assert found.losses == pytest.approx(alone.run(images).losses, rel=1e-2)
