"""A run that is far below its base head does not move `latest` unasked."""

from dataclasses import replace

import pytest
import torch

from model_store.store import Store
from petl_vit.vit import FrozenViT
from tests.training.conftest import SPEC, recipe
from training.data.loading import Resized
from training.data.records import Dataset
from training.run.heldout import HeldOut
from training.run.job import Job, run


@pytest.mark.parametrize(
    ("lost", "won", "far"),
    [(0, 0, False), (3, 0, False), (4, 0, True), (6, 3, False), (10, 2, True), (2, 10, False)],
)
def test_far_below_is_more_than_five_points_and_more_than_chance(
    dataset: Dataset, vit: FrozenViT, lost: int, won: int, far: bool
) -> None:
    images = Resized(dataset, SPEC, vit)
    heldout = HeldOut(dataset=dataset, images=images, holdout=0.2, split_seed=0)
    right = torch.nn.functional.one_hot(dataset.labels, 10).float()
    adapter, base = right.clone(), right.clone()
    adapter[:lost] *= -1
    base[lost : lost + won] *= -1
    assert heldout.far_below(adapter, base) is far


def test_a_collapsed_run_leaves_latest_where_it_is_and_says_how_to_promote_it(store: Store, job: Job) -> None:
    job = replace(job, name="one", recipe=recipe("linear", epochs=1, learning_rate=1e-4))
    good = run(store, job)
    assert (good.latest, good.warning) == (1, "")
    collapsing = replace(job, recipe=recipe("linear", epochs=1, learning_rate=1.0, head_init="random"))
    bad = run(store, collapsing)
    assert (bad.manifest.version, bad.latest) == (2, 1)
    assert bad.warning.startswith("digits/one:2 is far below its base head (0.")
    assert bad.warning.endswith("corolla adapters alias digits/one latest 2")
    again = run(store, collapsing)
    assert (again.reused, again.latest) == (True, 1)
    promoted = run(store, replace(collapsing, promote=True))
    assert (promoted.reused, promoted.latest) == (True, 2)
    first = run(store, replace(collapsing, name="two"))
    assert first.latest == 1  # there is no other
    assert first.warning.endswith(", and `latest` points at it")
