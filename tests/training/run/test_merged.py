"""A merge is one registered adapter: measured, served, interpolated and folded like any other."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corolla import command
from model_store.format.records import BackboneRecord, Draft, Manifest, TaskRecord, TaskSpec
from model_store.interchange.folding import folded
from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedRoute, resolve
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit import methods
from petl_vit.errors import Corrupt, InvalidInput, Unsupported
from petl_vit.heads import LinearHead
from petl_vit.precision import Precision
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import random_tensors
from tests.training.answered import said
from tests.training.conftest import SPEC, imported, write_npz
from tests.training.run.notes import Notes
from training.data.sources import load_dataset
from training.run import soup

Publish = Callable[[str, str, dict[str, object], int], Manifest]
CLASSES = tuple(f"digit {label}" for label in range(10))


@pytest.fixture
def task(store: Store, backbone: BackboneRecord, base_head: LinearHead) -> TaskRecord:
    spec = TaskSpec.of(name="digits", classes=CLASSES, preprocess=SPEC, backbone_digest=backbone.digest)
    return store.tasks.put(spec, base_head.tensors())


@pytest.fixture
def publish(store: Store, task: TaskRecord, vit: FrozenViT, base_head: LinearHead) -> Publish:
    def publish(name: str, method: str, config: dict[str, object], seed: int) -> Manifest:
        made = methods.get(method).configure(config)
        generator = torch.Generator().manual_seed(seed)
        head = {
            n: t + 0.05 * torch.randn(t.shape, generator=generator) for n, t in base_head.tensors().items()
        }
        draft = Draft.of(
            task="digits",
            name=name,
            method=method,
            config=made.model_dump(mode="json"),
            backbone_digest=task.spec.backbone_digest,
            task_digest=task.digest,
        )
        return store.adapters.publish(draft, random_tensors(made, vit, seed) | head)

    return publish


@pytest.fixture
def job(backbone: BackboneRecord, tmp_path: Path, publish: Publish) -> soup.Job:
    publish("narrow", "lora", {"rank": 2}, 1)
    publish("wide", "lora", {"rank": 5, "targets": "qkv,fc1"}, 2)
    publish("scaled", "ssf", {}, 3)
    return soup.Job(
        backbone=backbone.digest,
        task="digits",
        name="merged",
        members="narrow, wide, scaled",
        kind="ties",
        data=write_npz(tmp_path / "digits.npz", images=20),
        holdout=None,
        precision=Precision.FP32,
    )


def resolved(store: Store, backbone: BackboneRecord, route: str) -> ResolvedRoute:
    return resolve(parse_route(route), task="digits", store=store, backbone_digest=backbone.digest)


def accuracy(store: Store, backbone: BackboneRecord, job: soup.Job, route: str) -> float:
    return said(Loader(store, backbone), resolved(store, backbone, route), load_dataset(job.data)).accuracy


@pytest.mark.parametrize(
    ("kind", "rank"), [("ties", None), ("ties", 3), ("dare", 3), ("tsv", None), ("model-stock", None)]
)
def test_a_merge_is_registered_with_its_recipe_and_answers_as_it_was_measured(
    store: Store, backbone: BackboneRecord, job: soup.Job, kind: str, rank: int | None
) -> None:
    outcome = soup.run(store, replace(job, kind=kind, rank=rank))
    manifest, members = outcome.manifest, outcome.members
    assert (manifest.method, manifest.training["soup"]) == ("merge", kind)
    assert set(manifest.config["members"]) == {member.manifest.digest for member in members}
    assert all(member.weight is None for member in members)
    assert manifest.metrics["accuracy"] == accuracy(store, backbone, job, f"merged:{manifest.version}")
    assert (outcome.cut is None) == (rank is None)
    if rank is not None:
        assert 0 < manifest.training["rank_error"] <= manifest.training["worst_rank_error"] < 1
        assert not manifest.config["whole"]


def test_a_merge_can_be_interpolated_summed_and_asked_beside_others(
    store: Store, backbone: BackboneRecord, job: soup.Job
) -> None:
    soup.run(store, replace(job, kind="tsv", rank=4, name="low"))
    soup.run(store, job)
    mixed = "0.5*low:1, 0.3*low:1 + 0.4*narrow, merged:1, 0.5*merged:1 + 0.5*scaled, wide"
    assert 0 <= accuracy(store, backbone, job, mixed) <= 1
    (member,) = resolved(store, backbone, "0.5*merged:1").members
    loader = Loader(store, backbone)
    half = folded(loader, member).tensors["blocks.0.attn.qkv.weight"]
    frozen = loader.vit(32).params["blocks.0.attn.qkv.weight"]
    whole = store.adapters.load(store.adapters.manifest("digits", "merged", 1))["blocks.0.attn.qkv.weight"]
    assert torch.allclose(half, (frozen + whole) / 2, atol=1e-6)


def test_a_merge_is_the_same_version_again_in_any_order_and_another_by_its_seed(
    store: Store, job: soup.Job
) -> None:
    first = soup.run(store, replace(job, kind="dare")).manifest
    again = soup.run(store, replace(job, kind="dare", members="scaled, wide, narrow")).manifest
    other = soup.run(store, replace(job, kind="dare", seed=1)).manifest
    assert (first.digest, first.version) == (again.digest, again.version)
    assert other.digest != first.digest


def test_it_says_what_whole_weights_and_a_rank_cost(store: Store, job: soup.Job) -> None:
    dense, low = Notes(), Notes()
    soup.run(store, job, dense)
    soup.run(store, replace(job, rank=2), low)
    assert any("stored whole" in line and "--rank 16 keeps products" in line for line in dense.notes)
    assert any(line.startswith("rank 2 leaves out ") and "at worst" in line for line in low.notes)


def test_members_that_do_not_fold_are_refused_by_name_and_by_no_soup(
    store: Store, job: soup.Job, publish: Publish
) -> None:
    publish("beside", "adaptformer", {}, 4)
    members = "narrow, beside"
    with pytest.raises(Unsupported, match=r"digits/beside:1 \(adaptformer\) is no change of weights.*greedy"):
        soup.run(store, replace(job, members=members))
    soup.run(store, replace(job, members=members, kind="uniform"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"members": "narrow"}, "two members or more"),
        ({"kind": "tise"}, "kind: there is no kind 'tise'; did you mean ties?"),
        ({"kind": "uniform", "rank": 4}, "rank: a uniform soup has no such setting; leave it out, or use"),
        ({"rank": 0}, "rank: a rank of 0 keeps nothing"),
        ({"rank": 193}, "rank: no linear of .* has a change of rank 193; use at most 192"),
        ({"density": 0.0}, "density: 0.0 is no share"),
    ],
)
def test_a_merge_that_cannot_be_is_refused(
    store: Store, job: soup.Job, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        soup.run(store, soup.Job(**vars(job) | changes))


def test_members_of_other_heads_tasks_and_backbones_are_refused(
    store: Store, job: soup.Job, task: TaskRecord, base_head: LinearHead
) -> None:
    with pytest.raises(Unsupported, match="belongs to backbone"):
        soup.run(store, replace(job, backbone=imported(store, depth=1).digest))
    spec = task.spec.model_copy(update={"name": "turned", "classes": CLASSES[::-1]})
    store.tasks.put(spec, base_head.tensors())
    with pytest.raises(InvalidInput, match="is not of task 'turned'"):
        soup.run(store, replace(job, task="turned", members="digits/narrow, digits/wide"))
    newer = {name: 2 * tensor for name, tensor in base_head.tensors().items()}
    head = store.tasks.refit(task, newer, {})
    old = store.adapters.manifest("digits", "narrow", 1)
    values = {name: getattr(old, name) for name in Draft.model_fields}
    draft = Draft.of(**values | {"name": "fresh", "task_digest": head.digest})
    store.adapters.publish(draft, store.adapters.load(old))
    with pytest.raises(InvalidInput, match=r"different base heads|different tasks or base heads"):
        soup.run(store, replace(job, members="wide, fresh"))


def test_a_member_with_nan_is_refused_by_name(store: Store, job: soup.Job, publish: Publish) -> None:
    bad = publish("bad", "lora", {"rank": 2}, 5)
    with pytest.raises((InvalidInput, Corrupt), match="NaN"):
        store.adapters.publish(
            Draft.of(**{name: getattr(bad, name) for name in Draft.model_fields}),
            {name: tensor * torch.nan for name, tensor in store.adapters.load(bad).items()},
        )
    (file,) = Path(job.data).parent.glob("store/adapters/digits/bad/1/*.safetensors")
    data = bytearray(file.read_bytes())
    data[-4:] = b"\x00\x00\xc0\x7f"
    file.write_bytes(bytes(data))
    with pytest.raises(Corrupt, match="bad"):
        soup.run(store, replace(job, members="narrow, bad"))


def test_the_command_merges_and_says_what_it_cost(
    job: soup.Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["adapters", "soup", "--task", "digits", "--members", job.members, "--data", job.data]
    words += ["--name", "typed", "--all-images", "--device", "cpu", "--store", str(tmp_path / "store")]
    words += ["--precision", "fp32", "--kind", "dare", "--drop-rate", "0.7", "--seed", "3"]
    assert command.run(words) == 0
    told = capsys.readouterr()
    assert "digits/typed:1 is registered: held-out accuracy" in told.out
    assert "share" not in told.out
    assert "stored whole" in told.err
    assert command.run([*words, "--rank", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["training"]["drop_rate"] == 0.7
    assert found["training"]["rank_error"] > 0
    assert command.run([*words, "--density", "0.5"]) == 2
    assert "density: dare has no such setting" in capsys.readouterr().err
    assert command.run(["train", "merge", "--data", job.data, "--task", "digits"]) == 2
    assert "corolla adapters soup" in capsys.readouterr().err
