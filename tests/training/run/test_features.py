"""Frozen features that are computed once train the same head as those of every epoch."""

from dataclasses import replace

import pytest
import torch

from model_store.store import Store
from petl_vit import methods
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT
from tests.training.conftest import NEAR, SPEC, recipe
from tests.training.run.notes import Notes
from training.data.loading import Resized
from training.data.pixels import Augmentation
from training.data.records import Dataset
from training.run import features as once
from training.run.features import Features, why_not_once
from training.run.job import Job, run
from training.run.trainer import Trainer


@pytest.mark.parametrize("augment", ["none", "flip"])
def test_a_head_that_is_trained_on_kept_features_is_the_same_to_rounding(
    dataset: Dataset, exact: FrozenViT, base_head: LinearHead, augment: Augmentation
) -> None:
    chosen = recipe("linear", epochs=5, drop_path=0.0, augment=augment, learning_rate=0.01)
    images = Resized(dataset, SPEC, exact, augmentation=augment)
    every = Trainer(exact, methods.get("linear")(), base_head, chosen).run(images)
    kept = Trainer(exact, methods.get("linear")(), base_head, chosen, given_features=True).run(
        Features(images, chosen, exact)
    )
    for name, tensor in every.head.tensors().items():
        assert torch.allclose(tensor, kept.head.tensors()[name], rtol=NEAR, atol=NEAR), name
    assert every.losses == pytest.approx(kept.losses, rel=1e-9)


@pytest.mark.parametrize(
    ("method", "settings", "alone", "why"),
    [
        ("linear", {}, True, ""),
        ("linear", {"augment": "flip"}, True, ""),
        ("linear", {"augment": "crop-flip"}, True, "crop-flip changes the images"),
        ("linear", {"drop_path": 0.1}, True, "drop path changes them"),
        ("linear", {}, False, "it shares forwards with others"),
        ("lora", {}, True, None),
    ],
)
def test_what_changes_features_is_named(
    vit: FrozenViT, method: str, settings: dict[str, object], alone: bool, why: str | None
) -> None:
    chosen = recipe(method, **({"drop_path": 0.0} | settings))
    said = why_not_once(methods.get(method)(), chosen, vit, 60, alone=alone)
    assert said is None if why is None else said is not None and said.startswith(why)
    assert (said == "") is (why == "")


def test_features_that_would_take_too_much_memory_are_not_kept(
    vit: FrozenViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(once, "KEPT_BYTES", 60 * 192 * 4)
    linear, chosen = methods.get("linear")(), recipe("linear", drop_path=0.0)
    assert why_not_once(linear, chosen, vit, 60, alone=True) == ""
    assert why_not_once(linear, chosen, vit, 61, alone=True) == "they are too large to keep"
    flipped = chosen.model_copy(update={"augment": "flip"})
    assert why_not_once(linear, flipped, vit, 31, alone=True) == "they are too large to keep"


def test_a_job_computes_features_once_or_says_why_not(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[int]()
    batch = Resized.batch

    def counted(images: Resized, indices: torch.Tensor, *rest: object, **more: bool) -> torch.Tensor:
        seen.append(len(indices))
        return batch(images, indices, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Resized, "batch", counted)
    job, notes = replace(job, recipe=recipe("linear", epochs=20, drop_path=0.0)), Notes()
    heldout = run(store, job, notes).manifest.training["heldout_images"]
    assert isinstance(heldout, int)
    assert "computing frozen features" in notes.stages
    assert sum(seen) == 2 * 60 + 2 * heldout  # base head and features; features and metrics
    notes = Notes()
    run(store, replace(job, name="drop", recipe=recipe("linear", epochs=1, drop_path=0.1)), notes)
    assert "computing frozen features" not in notes.stages
    assert notes.notes[:1] == [
        "drop: frozen features are computed again in every epoch, as drop path changes them; --drop-path 0 "
        "computes them once"
    ]
