"""`--precision auto` is fp32 or bf16 before anything is told apart by it."""

from dataclasses import replace

import pytest
import torch

from model_store.store import Store
from petl_vit.vit import FrozenViT
from tests.training.conftest import recipe
from training.run import precision
from training.run.job import Job
from training.run.precision import compared, settled
from training.run.recipe import Recipe

NAMES = {"backbone": "b", "task": "t", "data": "d", "heldout": "h"}


@pytest.mark.parametrize(
    ("hardware", "speed", "difference", "expected"),
    [
        (True, 1.8, 0.01, "bf16"),
        (True, 0.9, 0.01, "fp32"),
        (True, 1.8, 0.06, "fp32"),
        (False, 1.8, 0.01, "fp32"),
    ],
)
def test_auto_is_bf16_where_that_is_faster_and_features_stay_the_same(
    hardware: bool,
    speed: float,
    difference: float,
    expected: str,
    store: Store,
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda device: hardware)
    monkeypatch.setattr(precision, "compared", lambda vit, device: (speed, difference))
    notes: list[str] = []
    asked = replace(job, recipe=recipe(precision="auto"))
    fixed = replace(job, recipe=recipe(precision="bf16"))
    first, second, other = settled(store, [asked, asked, fixed], notes.append)
    assert first.recipe.precision == second.recipe.precision == expected
    assert other.recipe.precision == "bf16"
    assert len(notes) == hardware  # decided once, and told with its reason
    if hardware:
        assert notes[0].startswith(f"training in {expected}: ")
        assert f"{1 / speed:.2f} of one in fp32" in notes[0]


def test_what_is_named_is_not_measured(store: Store, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "compared", lambda vit, device: pytest.fail("it was measured"))
    assert settled(store, [job], lambda text: None) == [job]


def test_a_recipe_has_a_digest_once_its_precision_is_chosen_and_one_for_each() -> None:
    digests = {Recipe.digest(recipe(precision=chosen), **NAMES) for chosen in ("fp32", "bf16")}
    assert len(digests) == 2
    with pytest.raises(ValueError, match="no precision is chosen"):
        recipe(precision="auto").digest(**NAMES)


def test_the_measurement_tells_a_speed_and_a_small_difference(vit: FrozenViT) -> None:
    speed, difference = compared(vit, torch.device("cpu"))
    assert speed > 0
    assert 0 < difference < 0.05
