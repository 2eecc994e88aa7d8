"""Runs on sets that were published in parts, on some images of each class, and on balanced classes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from model_store.store import Store
from petl_vit.errors import InvalidInput
from tests.training.conftest import recipe
from tests.training.run.notes import Notes
from training.run import refit
from training.run.job import Job, run, run_together


@pytest.fixture
def vtab(tmp_path: Path) -> str:
    """Digits as VTAB-1K publishes dsprites_loc, so that six of its sixteen classes have no image."""
    digits, root = load_digits(), tmp_path / "dsprites_loc"
    lists = {"train800": range(40), "val200": range(40, 60), "test": range(60, 90)}
    lists["train800val200"] = range(60)
    for name, places in lists.items():
        (root / "images" / name).mkdir(parents=True)
        lines = []
        for number, place in enumerate(places):
            path = f"images/{name}/{number:06d}.jpg"
            pixels = np.rint(digits.images[place] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).save(root / path, quality=95)
            label = 15 if place == 89 else digits.target[place]
            lines.append(f"{path} {label}\n")
        (root / f"{name}.txt").write_text("".join(lines))
    return str(root)


def test_a_task_of_vtab_is_trained_and_measured_on_its_lists(store: Store, job: Job, vtab: str) -> None:
    notes = Notes()
    wanted = replace(job, data=vtab, heldout=None, limit=None, normalise="none")
    manifest = run(store, wanted, notes).manifest
    assert manifest.training["data"] == f"{vtab}::train800val200"
    assert manifest.training["heldout"] == f"{vtab}::test"
    assert (manifest.training["images"], manifest.training["heldout_images"]) == (60, 30)
    assert manifest.training["holdout"] is None
    assert notes.notes[0].startswith(f"training on {vtab}::train800val200, holding out {vtab}::test; ")
    task = store.tasks.get("digits", manifest.backbone_digest)
    assert task.spec.classes == tuple(f"class {label}" for label in range(16))
    assert manifest.metrics["accuracy"] > 0.3
    assert run(store, replace(wanted, heldout=f"{vtab}::test")).reused
    tuned = replace(wanted, data=f"{vtab}::train800", heldout=f"{vtab}::val200", task="tuning")
    assert run(store, tuned).manifest.training["heldout_images"] == 20


def test_so_many_images_of_each_class_are_recorded(store: Store, job: Job) -> None:
    notes = Notes()
    manifest = run(store, replace(job, limit=None, shots=3), notes).manifest
    assert (manifest.training["images"], manifest.training["shots"]) == (30, 3)
    assert manifest.training["limit"] is None
    assert any("fitted to the 30 images of this --shots" in note for note in notes.notes)
    with pytest.raises(InvalidInput, match="leave out --limit or --shots"):
        run(store, replace(job, shots=3))
    more = refit.refit(
        store, refit.Job(backbone=job.backbone, task="digits", data="digits", heldout=job.heldout, shots=5)
    )
    assert more.task.training["images"] == 50


def test_balanced_runs_share_their_forwards_and_are_runs_of_their_own(store: Store, job: Job) -> None:
    balanced = [
        replace(job, name=name, recipe=recipe(method, balance="classes"))
        for name, method in (("lora", "lora"), ("ssf", "ssf"))
    ]
    one, other = (outcome.manifest for outcome in run_together(store, balanced))
    assert one.training["balance"] == other.training["balance"] == "classes"
    plain = run(store, job).manifest
    assert plain.training["balance"] == "none"
    assert plain.training["recipe_digest"] != one.training["recipe_digest"]
    assert plain.training["losses"] != one.training["losses"]
    mixed = [balanced[0], replace(job, name="ssf", recipe=recipe("ssf"))]
    with pytest.raises(InvalidInput, match="balance: ssf has none, lora has classes"):
        run_together(store, mixed)


def test_a_run_on_crops_of_whole_images_is_decided_by_its_seed(store: Store, job: Job) -> None:
    wanted = replace(job, recipe=recipe(augment="imagenet", epochs=1))
    one = run(store, wanted).manifest
    assert one.training["augment"] == "imagenet"
    assert run(store, replace(wanted, again=True)).manifest.digest == one.digest


def test_a_table_with_parts_holds_out_the_one_for_validation(store: Store, job: Job, tmp_path: Path) -> None:
    digits, rows = load_digits(), ["image,species,split"]
    for place in range(60):
        pixels = np.rint(digits.images[place] * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{place}.png")
        split = "train" if place < 40 else "val" if place < 50 else "test"
        rows.append(f"{place}.png,{digits.target[place]},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    source: dict[str, Any] = {"data": str(tmp_path / "labels.csv"), "label_column": "species"}
    manifest = run(store, replace(job, heldout=None, limit=None, **source)).manifest
    assert (manifest.training["images"], manifest.training["heldout_images"]) == (40, 10)
    assert json.loads(manifest.model_dump_json())["training"]["heldout"].endswith("labels.csv::val")
