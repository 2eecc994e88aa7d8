import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from model_store.collections.backbones import Backbones
from model_store.format.records import BackboneRecord
from model_store.store import Store
from petl_vit.errors import CorollaError, InvalidInput, NotFound
from petl_vit.precision import Precision
from tests.training.conftest import recipe, write_npz
from tests.training.run.notes import Notes, stages
from training.data import loading as images
from training.data.dataset import split_dataset
from training.data.sources import load_dataset
from training.run.job import Job, run
from training.run.recipe import Recipe
from training.run.trainer import Trainer


def test_a_job_registers_one_adapter_with_everything_that_made_it(store: Store, job: Job) -> None:
    outcome = run(store, replace(job, heldout=None))
    manifest, training = outcome.manifest, outcome.manifest.training
    assert not outcome.reused
    assert str(manifest) == "digits/lora:1"
    assert store.adapters.versions("digits", "lora") == [1]
    assert store.adapters.manifest("digits", "lora", 1) == manifest
    assert manifest.method == "lora"
    assert manifest.config == {"rank": 8, "dropout": 0.1, "targets": ["qkv"]}
    settings = recipe().model_dump(exclude={"method", "config"})
    assert {name: training[name] for name in settings} == settings
    _, heldout = split_dataset(load_dataset("digits"), holdout=0.2, seed=0)
    assert (training["data"], training["images"], training["heldout_images"]) == ("digits", 60, len(heldout))
    assert (training["limit"], training["holdout"], training["split_seed"]) == (60, 0.2, 0)
    assert training["heldout_digest"] == heldout.digest
    assert training["versions"]["torch"] == version("torch")
    assert training["versions"].keys() == {"python", "torch", "timm", "numpy", "scikit-learn", "corolla"}
    assert len(training["losses"]) == 2
    assert len(training["data_digest"]) == len(training["recipe_digest"]) == 64
    names = {"accuracy", "confidence", "nll", "ece", "base_accuracy", "parameters"}
    assert manifest.metrics.keys() == names
    assert manifest.metrics["parameters"] == 2 * 4 * 192 * 8
    assert manifest.metrics["accuracy"] > 0.3
    assert 0.05 <= manifest.temperature <= 20
    assert list(job.runs.iterdir()) == []


def test_the_same_job_again_is_reused_and_not_trained(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(store, job)

    def never(*_: object) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr(Trainer, "run", never)
    monkeypatch.setattr(Backbones, "load", never)  # nor reads any weights
    second = run(store, job)
    assert (second.reused, second.manifest) == (True, first.manifest)
    with pytest.raises(AssertionError, match="it trains"):
        run(store, replace(job, recipe=recipe(seed=1)))


def test_again_trains_and_equal_tensors_stay_one_version(store: Store, job: Job) -> None:
    first = run(store, job)
    assert "training lora" in stages(store, replace(job, again=True))
    again = run(store, replace(job, again=True))
    assert not again.reused
    assert again.manifest == first.manifest


def test_another_recipe_under_the_same_name_is_a_new_version(store: Store, job: Job) -> None:
    first = run(store, job).manifest
    second = run(store, replace(job, recipe=recipe(head_init="random"))).manifest
    assert (first.version, second.version) == (1, 2)
    assert (first.training["head_init"], second.training["head_init"]) == ("probe", "random")
    assert first.digest != second.digest


def test_linear_with_the_probes_head_starts_at_the_base_accuracy(store: Store, job: Job) -> None:
    still = recipe("linear", learning_rate=1e-9, weight_decay=0.0)
    metrics = run(store, replace(job, name="linear", recipe=still)).manifest.metrics
    assert metrics["accuracy"] == metrics["base_accuracy"]
    assert metrics["parameters"] == 0


def test_a_held_out_set_of_its_own_leaves_all_images_for_training(
    store: Store, job: Job, tmp_path: Path
) -> None:
    source = write_npz(tmp_path / "train.npz", images=50)
    heldout = write_npz(tmp_path / "heldout.npz", images=90)
    training = run(store, replace(job, data=source, heldout=heldout, limit=None)).manifest.training
    assert (training["images"], training["heldout_images"], training["holdout"]) == (50, 40, None)
    assert training["heldout"] == heldout
    other, notes = replace(job, data=source, heldout=None, limit=None), Notes()
    other = replace(other, heldout=write_npz(tmp_path / "more.npz", images=120))
    assert run(store, other, notes).reused
    assert notes.notes.pop(0) == (
        "50 of the 120 held-out images are training images of this run, base: they are left out, 70 remain"
    )
    assert notes.notes == ["digits/lora:1 was measured on other held-out images; see corolla evaluate"]


def test_a_limit_that_cannot_cover_the_classes_is_refused(store: Store, job: Job) -> None:
    with pytest.raises(InvalidInput, match="limit: 5 images cannot cover the 10 classes of digits"):
        run(store, replace(job, limit=5))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"name": "Big Name"}, InvalidInput, "name: 'Big Name' is not a name"),
        ({"name": "base"}, InvalidInput, "name: `base` means the frozen backbone"),
        ({"task": "Über"}, InvalidInput, "task: 'Über' is not a name"),
        ({"backbone": "vit"}, NotFound, "backbone: no backbone 'vit'"),
        ({"data": "nowhere"}, NotFound, "data: .*nowhere"),
        ({"heldout": "nowhere"}, NotFound, "heldout: .*nowhere"),
        ({"image_size": 24}, InvalidInput, "image.size: 24 px is not a multiple of the patch size 16"),
        (
            {"recipe": Recipe(method="lora", config={"rank": 0}, learning_rate=1e-3)},
            InvalidInput,
            r"lora\.rank",
        ),
        ({"recipe": Recipe(method="loar", learning_rate=1e-3)}, NotFound, "there is no method 'loar'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read_or_stored(
    store: Store, job: Job, change: dict[str, Any], error: type[CorollaError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(store, replace(job, **change))
    assert store.tasks.list() == []
    assert store.adapters.list() == []


@pytest.mark.numerics
def test_a_set_that_is_too_large_to_keep_gives_the_same_adapter_and_says_so(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, notes = run(store, job).manifest, Notes()
    defaults = images.Resized.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "kept_bytes", 1000)
    decoded = run(store, replace(job, name="decoded"), notes).manifest
    assert decoded.digest == kept.digest
    assert "digits is too large to keep, so it is decoded again every epoch" in notes.notes


def test_a_killed_job_registers_nothing_and_the_next_run_ends_as_if_it_had_not_been_killed(
    store: Store, backbone: BackboneRecord, job: Job, tmp_path: Path
) -> None:
    chosen = recipe(epochs=8, drop_path=0.2, augment="flip")
    job = replace(job, recipe=chosen, heldout=None)
    arguments = ["train", "lora", "--data", "digits", "--task", "digits", "--limit", "60", "--device", "cpu"]
    arguments += ["--lr", "0.001", "--epochs", "8", "--batch-size", "16"]
    arguments += ["--drop-path", "0.2", "--augment", "flip"]
    arguments += ["--store", str(tmp_path / "store"), "--runs", str(job.runs)]
    threads = str(torch.get_num_threads())
    process = subprocess.Popen(
        [sys.executable, "-m", "corolla", *arguments],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        end = time.monotonic() + 600  # commands start slowly on a busy machine
        while not list(job.runs.glob("*.pt")):
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < end, "no epoch was saved"
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert store.adapters.list() == []
    notes = Notes()
    resumed = run(store, job, notes)
    assert notes.notes[0].startswith("resuming after epoch ")
    assert notes.notes[1].startswith("training takes about ")
    assert len(notes.notes) == 2
    assert not resumed.reused
    assert list(job.runs.iterdir()) == []
    whole = run(store, replace(job, name="whole"))
    assert whole.manifest.digest == resumed.manifest.digest
    assert whole.manifest.training["losses"] == resumed.manifest.training["losses"]


# bf16


def test_a_job_in_bf16_says_so_and_measures_with_the_same_base_as_in_fp32(store: Store, job: Job) -> None:
    half = run(store, replace(job, name="half", recipe=recipe(precision="bf16"))).manifest
    plain = run(store, job).manifest
    assert (half.training["precision"], plain.training["precision"]) == ("bf16", "fp32")
    assert half.training["recipe_digest"] != plain.training["recipe_digest"]
    assert half.metrics["base_accuracy"] == plain.metrics["base_accuracy"]
    assert half.metrics["accuracy"] == pytest.approx(plain.metrics["accuracy"], abs=0.05)
    assert run(store, replace(job, name="half", recipe=recipe(precision="bf16"))).reused
    base = store.tasks.load_base_head(store.tasks.get("digits", half.backbone_digest))
    run(store, replace(job, task="fp32-first"))
    for name, tensor in store.tasks.load_base_head(
        store.tasks.get("fp32-first", half.backbone_digest)
    ).items():
        assert torch.equal(tensor, base[name])


def test_a_job_says_what_it_was_measured_in(store: Store, job: Job) -> None:
    half = run(store, replace(job, measure_precision=Precision.BF16)).manifest
    assert half.metrics_precision is Precision.BF16
    exact = run(store, replace(job, task="exact")).manifest
    assert exact.metrics_precision is Precision.FP32
    assert half.digest == exact.digest  # of the same tensors
    assert half.training["recipe_digest"] == exact.training["recipe_digest"]
    assert half.metrics["confidence"] != exact.metrics["confidence"]
    assert half.metrics["confidence"] == pytest.approx(exact.metrics["confidence"], abs=0.02)


def test_a_registered_run_that_was_measured_in_another_precision_is_not_trained_again(
    store: Store, job: Job
) -> None:
    run(store, job)
    notes = Notes()
    assert run(store, replace(job, measure_precision=Precision.BF16), notes).reused
    assert notes.notes == ["digits/lora:1 was measured in fp32; see corolla evaluate"]
    quiet = Notes()
    assert run(store, replace(job, measure_precision=Precision.AUTO), quiet).reused
    assert quiet.notes == []


def test_measuring_falls_back_to_fp32_where_bf16_changes_the_answers(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_store.resolution.precision.has_bf16", lambda device: True)
    monkeypatch.setattr("model_store.resolution.precision.TOLERANCE", 0.0)
    notes = Notes()
    manifest = run(store, replace(job, measure_precision=Precision.AUTO), notes).manifest
    assert manifest.metrics_precision is Precision.FP32
    assert notes.notes[-1].startswith("computing in fp32: bf16 changes logits of lora by ")


def test_a_run_that_was_registered_before_there_was_a_precision_is_found(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "model_dump", _dumped_without_precision(Recipe.model_dump))
        assert "precision" not in run(store, job).manifest.training
    assert run(store, job).reused


def _dumped_without_precision(dump: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def without(chosen: Recipe, **options: Any) -> dict[str, Any]:
        return {name: value for name, value in dump(chosen, **options).items() if name != "precision"}

    return without
