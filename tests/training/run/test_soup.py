"""Soups are chosen on held-out images and registered with their recipe."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corolla import command
from model_store.format.records import BackboneRecord, Draft, Manifest, TaskRecord, TaskSpec
from model_store.resolution.loading import Loader
from model_store.resolution.versions import resolve
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit import methods
from petl_vit.errors import InvalidInput, NotFound, Unsupported
from petl_vit.heads import LinearHead
from petl_vit.precision import Precision
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import random_tensors
from tests.training.answered import said
from tests.training.conftest import SPEC, imported, write_npz
from training.data.dataset import split_dataset
from training.data.sources import load_dataset
from training.run import soup

CLASSES = tuple(f"digit {label}" for label in range(10))


@pytest.fixture
def task(store: Store, backbone: BackboneRecord, base_head: LinearHead) -> TaskRecord:
    spec = TaskSpec.of(name="digits", classes=CLASSES, preprocess=SPEC, backbone_digest=backbone.digest)
    return store.tasks.put(spec, base_head.tensors())


@pytest.fixture
def members(store: Store, task: TaskRecord, vit: FrozenViT, base_head: LinearHead) -> list[Manifest]:
    """Three adapters: two that keep most of the base head, and one whose head knows nothing."""
    made = []
    for name, method, noise in (("good", "lora", 0.0), ("fair", "ssf", 0.05), ("poor", "lora", 50.0)):
        config = methods.get(method).configure({"rank": 2} if method == "lora" else {})
        tensors = {n: t * 0.1 if method == "lora" else t for n, t in random_tensors(config, vit, 1).items()}
        generator = torch.Generator().manual_seed(len(made))
        head = {
            n: t + noise * torch.randn(t.shape, generator=generator) for n, t in base_head.tensors().items()
        }
        draft = Draft.of(
            task="digits",
            name=name,
            method=method,
            config=config.model_dump(mode="json"),
            backbone_digest=task.spec.backbone_digest,
            task_digest=task.digest,
        )
        made.append(store.adapters.publish(draft, tensors | head))
    return made


@pytest.fixture
def job(backbone: BackboneRecord, tmp_path: Path, members: list[Manifest]) -> soup.Job:
    return soup.Job(
        backbone=backbone.digest,
        task="digits",
        name="mixed",
        members="good, fair, poor",
        data=write_npz(tmp_path / "digits.npz", images=100),
        holdout=None,
        precision=Precision.FP32,
    )


def accuracy(store: Store, backbone: BackboneRecord, source: str, route: str) -> float:
    resolved = resolve(parse_route(route), task="digits", store=store, backbone_digest=backbone.digest)
    return said(Loader(store, backbone), resolved, load_dataset(source)).accuracy


def test_a_uniform_soup_is_the_average_of_all(store: Store, backbone: BackboneRecord, job: soup.Job) -> None:
    outcome = soup.run(store, soup.Job(**vars(job) | {"kind": "uniform"}))
    third = 1 / 3
    assert [member.weight for member in outcome.members] == [third] * 3
    text = f"{third}*good + {third}*fair + {third}*poor"
    expected = accuracy(store, backbone, job.data, text)
    assert outcome.manifest.metrics["accuracy"] == pytest.approx(expected)
    assert accuracy(store, backbone, job.data, "mixed") == pytest.approx(expected)


def test_a_greedy_soup_keeps_only_what_strictly_raises_the_held_out_accuracy(
    store: Store, backbone: BackboneRecord, job: soup.Job
) -> None:
    outcome = soup.run(store, job)
    alone = [member.accuracy for member in outcome.members]
    assert alone == sorted(alone, reverse=True)
    kept: list[str] = []
    best = -1.0
    for member in outcome.members:  # the recipe, by the routes of `corolla evaluate`
        names = [*kept, member.manifest.name]
        found = accuracy(store, backbone, job.data, " + ".join(f"{1 / len(names)}*{n}" for n in names))
        if found > best:
            kept, best = names, found
    assert [m.manifest.name for m in outcome.members if m.weight] == kept
    assert outcome.manifest.metrics["accuracy"] == pytest.approx(best)
    assert "poor" not in kept


def test_a_member_that_only_keeps_the_accuracy_is_left_out(store: Store, job: soup.Job) -> None:
    tensors = store.adapters.load(store.adapters.manifest("digits", "good", 1))
    draft = Draft.of(
        **{n: getattr(store.adapters.manifest("digits", "good", 1), n) for n in Draft.model_fields}
    )
    store.adapters.publish(draft, {n: t * (1 + 1e-7) for n, t in tensors.items()})
    outcome = soup.run(store, soup.Job(**vars(job) | {"members": "good:1, good:2"}))
    assert [member.weight for member in outcome.members] == [1.0, 0.0]


def test_the_recipe_is_in_the_manifest(store: Store, job: soup.Job, members: list[Manifest]) -> None:
    manifest = soup.run(store, soup.Job(**vars(job) | {"kind": "uniform"})).manifest
    assert (manifest.method, manifest.training["soup"]) == ("soup", "uniform")
    recipe = manifest.training["members"]
    assert isinstance(recipe, list)
    assert {entry["digest"] for entry in recipe} == {member.digest for member in members}
    assert all(entry.keys() == {"adapter", "digest", "weight", "accuracy"} for entry in recipe)
    assert manifest.training["heldout_images"] == 100
    assert manifest.metrics.keys() >= {"accuracy", "base_accuracy", "nll", "ece", "parameters"}
    assert [term["method"] for term in manifest.config["terms"]] == [
        "ssf" if entry["adapter"] == "digits/fair:1" else "lora" for entry in recipe
    ]


def test_the_same_soup_again_stays_one_version(store: Store, job: soup.Job) -> None:
    assert soup.run(store, job).manifest == soup.run(store, job).manifest


def test_only_the_images_that_training_held_out_are_used(store: Store, job: soup.Job) -> None:
    manifest = soup.run(store, soup.Job(**vars(job) | {"holdout": 0.3})).manifest
    assert manifest.training["heldout_images"] == len(
        split_dataset(load_dataset(job.data), holdout=0.3, seed=0)[1]
    )


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"members": "good"}, InvalidInput, "two members or more"),
        ({"members": "good, good:1"}, InvalidInput, "good:1 is there twice"),
        ({"members": "good, base"}, InvalidInput, "base is not one adapter"),
        ({"members": "good, 0.5*fair"}, InvalidInput, "is not one adapter"),
        ({"members": "good, 2: fair"}, InvalidInput, "is not one adapter"),
        ({"members": "good, fiar"}, NotFound, "no adapter 'fiar'"),
        ({"name": "Mixed"}, InvalidInput, "is not a name"),
    ],
)
def test_a_soup_that_cannot_be_is_refused(
    store: Store, job: soup.Job, changes: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        soup.run(store, soup.Job(**vars(job) | changes))


def test_members_of_another_backbone_are_refused(store: Store, job: soup.Job) -> None:
    other = imported(store, depth=1)
    with pytest.raises(Unsupported, match="belongs to backbone"):
        soup.run(store, soup.Job(**vars(job) | {"backbone": other.digest}))


def test_members_of_another_task_than_the_one_named_are_refused(
    store: Store, task: TaskRecord, job: soup.Job, base_head: LinearHead
) -> None:
    spec = task.spec.model_copy(update={"name": "turned", "classes": CLASSES[::-1]})
    store.tasks.put(spec, base_head.tensors())
    with pytest.raises(
        InvalidInput, match="is not of task 'turned'; choose adapters of turned, or give --task"
    ):
        soup.run(store, replace(job, task="turned", members="digits/good, digits/fair"))


def test_a_soup_says_what_it_was_chosen_in(store: Store, job: soup.Job) -> None:
    exact = soup.run(store, job).manifest
    half = soup.run(store, replace(job, precision=Precision.BF16, name="half")).manifest
    assert (exact.metrics_precision, half.metrics_precision) == (Precision.FP32, Precision.BF16)
    assert half.metrics["confidence"] == pytest.approx(exact.metrics["confidence"], abs=0.05)


def test_the_command_says_who_is_in_it(
    store: Store, job: soup.Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["adapters", "soup", "--task", "digits", "--members", job.members, "--data", job.data]
    words += ["--name", "typed", "--all-images", "--device", "cpu", "--store", str(tmp_path / "store")]
    words += ["--precision", "fp32"]
    assert command.run(words) == 0
    out = capsys.readouterr().out
    assert "digits/poor:1  held-out accuracy" in out
    assert "left out" in out
    assert "digits/typed:1 is registered: held-out accuracy" in out
    assert out.endswith(", measured in fp32\n")
    assert command.run([*words, "--json", "--kind", "uniform"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 2
    assert command.run(["train", "soup", "--data", job.data, "--task", "digits"]) == 2
    assert "corolla adapters soup" in capsys.readouterr().err
