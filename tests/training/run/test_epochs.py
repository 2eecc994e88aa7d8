"""Epochs as they are told and measured, and the best one as it is kept."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model_store.store import Store
from petl_vit import methods
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT
from tests.training.conftest import SPEC, recipe
from tests.training.run.notes import Notes
from training.data.loading import Resized
from training.data.records import Dataset
from training.run.epochs import Epochs, measured
from training.run.job import Job, run
from training.run.recipe import Recipe
from training.run.trainer import Trained, Trainer, train


@pytest.fixture
def plain(dataset: Dataset, vit: FrozenViT) -> Resized:
    return Resized(dataset, SPEC, vit)


def trainer(vit: FrozenViT, base_head: LinearHead, chosen: Recipe, **values: Any) -> Trainer:
    return Trainer(vit, methods.get(chosen.method)(), base_head, chosen, **values)


class Clock:
    """Ten seconds later each time it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10
        return self.now


def test_every_epoch_is_told_with_its_loss_its_rate_and_the_time_left(
    vit: FrozenViT, base_head: LinearHead, plain: Resized
) -> None:
    one, notes = trainer(vit, base_head, recipe("bitfit", epochs=3)), Notes()
    train([one], plain, after_epoch=Epochs([one], plain, 60, notes, clock=Clock()))
    assert [line.partition(", learning")[0] for line in notes.statuses] == [
        f"epoch {epoch}/3: loss {loss:.4f}" for epoch, loss in zip((1, 2, 3), one.losses, strict=True)
    ]
    assert [line.rpartition(", ")[2] for line in notes.statuses] == ["20 s left", "10 s left", "0 s left"]
    assert all(f"held-out accuracy {one.accuracies[e]:.3f}" in notes.statuses[e - 1] for e in (1, 2, 3))
    assert "learning rate 0.00092," in notes.statuses[0]  # of the last step, on its way down


def test_adapters_that_train_together_are_told_by_name_in_one_line(
    vit: FrozenViT, base_head: LinearHead, plain: Resized
) -> None:
    several = [trainer(vit, base_head, recipe(m, epochs=1), name=m) for m in ("bitfit", "lora")]
    notes = Notes()
    train(several, plain, after_epoch=Epochs(several, plain, 60, notes, of=1000))
    (line,) = notes.statuses
    assert line.startswith("epoch 1/1: bitfit loss ")
    assert "; lora loss " in line
    assert " on 60, 0 s left" in line


@pytest.mark.parametrize(
    ("keep", "after"), [("last", [4, 8, 12, 16, 20, 24, 28, 32]), ("best", range(1, 33))]
)
def test_a_run_is_measured_ten_times_at_most_or_after_every_epoch_where_the_best_is_kept(
    vit: FrozenViT, base_head: LinearHead, plain: Resized, keep: str, after: list[int]
) -> None:
    one = trainer(vit, base_head, recipe("linear", epochs=32, keep=keep))
    told = Epochs([one], plain, 60, Notes())
    one.losses.append(1.0)
    for one.epoch in range(1, 33):
        told([one])
    assert [*one.accuracies] == [*after]
    assert math.isclose(one.accuracies[32], 1.0)  # of its own images, which the head was fitted to


def test_a_large_held_out_set_is_measured_on_an_even_part_of_it() -> None:
    assert measured(5, 10, "last").tolist() == [0, 1, 2, 3, 4]
    part = measured(5000, 300, "best")
    assert len(part) == len(set(part.tolist())) == 300
    assert part.diff().max() <= 18
    assert [len(measured(5000, n, "last")) for n in (10, 300)] == [64, 150]
    assert len(measured(5000, 10, "best")) == 256


def test_the_best_epoch_is_kept_also_where_the_run_was_stopped_after_it(
    vit: FrozenViT, base_head: LinearHead, plain: Resized
) -> None:
    chosen, states = recipe("bitfit", epochs=4, keep="best"), list[dict[str, Any]]()
    after: dict[int, Tensor] = {}

    def noted(trainers: list[Trainer]) -> None:
        epoch = trainers[0].epoch
        after[epoch] = trainers[0].parameters["norm.bias"].detach().clone()
        trainers[0].note_accuracy([0.5, 0.9, 0.9, 0.7][epoch - 1])

    def best(trained: Trained) -> None:
        assert trained.epoch == 2  # the first of two that are equal
        assert torch.equal(trained.tensors["norm.bias"], after[2])
        assert trained.accuracies == {1: 0.5, 2: 0.9, 3: 0.9, 4: 0.7}

    def remember(state: dict[str, Any]) -> None:
        states.append({**state, "optimizer": {**state["optimizer"]}, "accuracies": {**state["accuracies"]}})

    whole = trainer(vit, base_head, chosen, save=remember)
    best(train([whole], plain, after_epoch=noted)[0])  # type: ignore[arg-type]
    resumed = trainer(vit, base_head, chosen)
    resumed.resume(states[2])
    best(train([resumed], plain, after_epoch=noted)[0])  # type: ignore[arg-type]
    last = trainer(vit, base_head, recipe("bitfit", epochs=4))
    kept = train([last], plain, after_epoch=noted)[0]  # type: ignore[arg-type]
    assert kept.epoch == 4
    assert torch.equal(kept.tensors["norm.bias"], after[4])


def test_a_job_keeps_the_best_epoch_and_says_which(store: Store, job: Job) -> None:
    chosen = recipe("linear", epochs=6, learning_rate=0.5, keep="best")
    training = run(store, replace(job, recipe=chosen)).manifest.training
    accuracies = training["accuracies"]
    assert isinstance(accuracies, dict)
    assert training["keep"] == "best"
    assert accuracies[str(training["epoch"])] == max(accuracies.values())


def test_which_epoch_is_the_best_depends_on_the_held_out_images() -> None:
    def digest(keep: str, heldout: str) -> str:
        return recipe(keep=keep).digest(backbone="b", task="t", data="d", heldout=heldout)

    assert digest("last", "one") == digest("last", "other")
    assert len({digest("last", "one"), digest("best", "one"), digest("best", "other")}) == 3
