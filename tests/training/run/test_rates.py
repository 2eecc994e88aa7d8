from dataclasses import replace
from typing import Any

import pytest
import torch

from model_store.store import Store
from petl_vit import methods
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT
from tests.training.run.notes import Notes
from training.data.loading import Resized
from training.run import rates
from training.run.job import Job, run
from training.run.planned import Planned
from training.run.recipe import Recipe
from training.run.trainer import Trainer


def planned(method: str = "lora", **values: Any) -> Planned:
    recipe = Recipe.of(method=method, **{"epochs": 4, "batch_size": 32} | values)
    return Planned(name="one", recipe=recipe, method=methods.get(method)())


@pytest.mark.parametrize(
    ("method", "epochs", "rate"),
    [
        ("lora", 4, 4.4e-3),  # 76 steps
        ("ssf", 4, 4.4e-3),
        ("lora", 1, 1.3e-3),  # 19: too few to recover from large ones
        ("lora", 22, 1.9e-3),  # 418
        ("lora", 100, 1e-3),  # 1,900: the study's
        ("lora", 1000, 1e-3),  # and not under it
    ],
)
def test_a_short_run_has_a_higher_rate_and_the_probes_head_a_tenth_of_it(
    method: str, epochs: int, rate: float
) -> None:
    recipe = rates.settled(planned(method, epochs=epochs), 608).recipe
    assert recipe.highest_rates == pytest.approx((rate, rate / 10))


@pytest.mark.parametrize("method", ["vera", "ia3"])
def test_vectors_alone_take_ten_times_the_rate_and_their_head_does_not(method: str) -> None:
    assert rates.settled(planned(method), 608).recipe.highest_rates == pytest.approx((4.4e-2, 4.4e-4))


def test_the_last_incomplete_batch_is_a_step_too() -> None:
    assert rates.settled(planned(), 577).rates_for == "lora, 76 steps, the head from the base head"
    assert rates.settled(planned(), 576).rates_for == "lora, 72 steps, the head from the base head"


def test_a_random_head_learns_as_fast_as_the_adapter() -> None:
    adapter = rates.settled(planned(head_init="random"), 608)
    assert adapter.recipe.highest_rates == (4.4e-3, 4.4e-3)
    assert adapter.rates_for == "lora, 76 steps, the head from random numbers"


@pytest.mark.parametrize(("method", "rate"), [("full", 5e-5), ("selective", 5e-5), ("linear", 1e-3)])
def test_methods_without_tensors_of_their_own_keep_one_rate(method: str, rate: float) -> None:
    assert rates.settled(planned(method), 608).recipe.highest_rates == (rate, rate)


def test_a_rate_that_is_given_is_the_heads_too_as_it_always_was() -> None:
    adapter = planned(learning_rate=3e-3)
    assert rates.settled(adapter, 608) == adapter
    assert adapter.recipe.highest_rates == (3e-3, 3e-3)
    digest = {"backbone": "b", "task": "t", "data": "d", "heldout": "h"}
    same = adapter.recipe.model_copy(update={"head_rate": 3e-3})
    assert same.digest(**digest) == adapter.recipe.digest(**digest)


def test_a_heads_rate_that_is_given_stays_beside_a_chosen_one() -> None:
    assert rates.settled(planned(head_rate=2e-3), 608).recipe.highest_rates == (4.4e-3, 2e-3)
    assert planned(learning_rate=1e-2, head_rate=2e-3).recipe.highest_rates == (1e-2, 2e-3)


def test_a_recipe_whose_rate_is_not_chosen_has_none_to_train_with() -> None:
    with pytest.raises(ValueError, match="no learning rate is chosen yet"):
        _ = planned().recipe.highest_rates


def test_a_job_says_and_records_its_rates_and_is_the_same_run_again(store: Store, job: Job) -> None:
    without = replace(job, recipe=Recipe.of(method="lora", epochs=1, batch_size=16))
    notes = Notes()
    training = run(store, without, notes).manifest.training
    assert (
        "lora: learning rate 0.001, the head's 0.0001, chosen for lora, 4 steps, "
        "the head from the base head; --lr and --head-lr choose others"
    ) in notes.notes
    assert (training["learning_rate"], training["head_rate"]) == (1e-3, 1e-4)
    assert training["rates_for"] == "lora, 4 steps, the head from the base head"
    assert run(store, without).reused
    typed = without.recipe.model_copy(update={"learning_rate": 1e-3, "head_rate": 1e-4})
    assert run(store, replace(job, recipe=typed)).reused


def test_the_head_moves_at_its_own_rate(vit: FrozenViT, base_head: LinearHead, images: Resized) -> None:
    recipe = planned(learning_rate=1e-2, head_rate=1e-6, epochs=1, weight_decay=0.0).recipe
    trained = Trainer(vit, methods.get("lora")(), base_head, recipe).run(images)
    torch.testing.assert_close(trained.head.tensors()["head.weight"], base_head.weight, atol=1e-5, rtol=0)
    assert trained.tensors["blocks.0.attn.qkv.lora_b"].abs().max() > 1e-3


def test_a_state_from_before_heads_had_a_rate_goes_on(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    states: list[dict[str, Any]] = []
    recipe, method = planned(learning_rate=1e-2, epochs=2).recipe, methods.get("lora")()
    whole = Trainer(vit, method, base_head, recipe, save=lambda s: states.append(_copied(s))).run(images)
    (first, second), older = states[0]["optimizer"]["param_groups"], states[0]
    older["optimizer"]["param_groups"] = [first | {"params": first["params"] + second["params"]}]

    again = Trainer(vit, method, base_head, recipe)
    assert again.resume(older) == 1
    resumed = again.run(images)
    for name, tensor in whole.tensors.items():
        assert torch.equal(resumed.tensors[name], tensor), name


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.clone()
        if isinstance(value, torch.Tensor)
        else _copied(value)
        if isinstance(value, dict)
        else value
        for name, value in state.items()
    }
