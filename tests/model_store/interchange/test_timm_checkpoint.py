"""A timm checkpoint becomes an adapter of the method full, with its head matched by class names."""

import json
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from model_store.format.records import TaskSpec
from model_store.interchange import folding, timm_checkpoint
from model_store.resolution import one_model
from model_store.sources.checkpoint import Checkpoint
from model_store.sources.said import Said
from model_store.store import Store
from petl_vit.errors import Corrupt, InvalidInput
from tests.model_store.real import CLASSES, Real
from tests.petl_vit.backbones import relative

PERMUTED = ("eel", "ant", "dog", "cat", "bee")


@pytest.fixture
def real(tmp_path: Path) -> Real:
    made = Real(Store.open(str(tmp_path / "store")))
    made.publish("lora")
    return made


def plain(real: Real) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return dict(real.timm().state_dict())


def register(
    real: Real, data: bytes, name: str = "mine", classes: tuple[str, ...] | None = None
) -> list[str]:
    return saved(real, data).register(real.store, real.task, name=name, classes=classes)[1]


def saved(real: Real, data: bytes) -> timm_checkpoint.Whole:
    """What is read from a file of these bytes."""
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(data)
        file.flush()
        return timm_checkpoint.read(Path(file.name))


def test_what_timm_computes_is_what_the_adapter_computes(real: Real) -> None:
    weights, model = plain(real), real.timm()
    model.load_state_dict(weights)
    notes = register(real, safetensors.torch.save(weights))
    assert notes == ["its head's rows were taken in the order of the task's classes"]
    with torch.no_grad():
        assert relative(real.logits("mine"), model(real.images)) <= 1e-5
    assert real.store.adapters.manifest("zoo", "mine", 1).method == "full"


def test_another_epsilon_than_the_backbones_is_said(real: Real) -> None:
    found = Checkpoint(name="a folder", tensors=plain(real), said=Said(eps=1e-12))
    whole = timm_checkpoint.Whole(checkpoint=found)
    done = whole.register(real.store, real.task, name="mine", classes=None)
    assert "an epsilon of 1e-12 and the task's backbone 1e-06" in " ".join(done.notes)


def test_a_folded_file_comes_back_and_its_classes_are_matched_by_name(real: Real) -> None:
    member = one_model.resolve(real.store, "lora", "zoo")
    found = folding.folded(real.loader, member)
    places = [CLASSES.index(name) for name in PERMUTED]
    tensors = found.tensors | {n: found.tensors[n][places] for n in ("head.weight", "head.bias")}
    header = found.header | {"classes": json.dumps(PERMUTED)}
    assert register(real, safetensors.torch.save(tensors, header)) == []
    assert relative(real.logits("mine"), real.logits("lora")) <= 1e-4


def test_a_permuted_list_of_classes_is_matched_by_name(real: Real) -> None:
    weights = plain(real)
    register(real, safetensors.torch.save(weights), "straight")
    register(real, safetensors.torch.save(weights), "permuted", PERMUTED)
    order = [PERMUTED.index(name) for name in CLASSES]
    assert relative(real.logits("permuted"), real.logits("straight")[:, order]) <= 1e-6


def test_classes_of_another_task_are_refused(real: Real) -> None:
    header = {"corolla": "1", "classes": json.dumps(["ant", "bee", "cat", "dog", "fox"])}
    with pytest.raises(InvalidInput, match="differ in eel, fox"):
        register(real, safetensors.torch.save(plain(real), header))


def test_a_backbone_without_a_head_is_refused(real: Real) -> None:
    weights = {name: tensor for name, tensor in plain(real).items() if not name.startswith("head.")}
    with pytest.raises(InvalidInput, match="corolla backbones import"):
        register(real, safetensors.torch.save(weights))


def test_tensors_missing_extra_of_another_shape_or_not_finite_are_refused(real: Real) -> None:
    for changes, said in (
        ({"norm.bias": None}, r"lacks norm\.bias"),
        ({"norm.more": torch.zeros(1)}, r"has unexpected norm\.more"),
        (
            {"pos_embed": torch.zeros(1, 5, 192)},
            r"pos_embed has shape \(1, 5, 192\), expected \(1, 10, 192\)",
        ),
        ({"norm.bias": torch.full((192,), float("inf"))}, r"'norm\.bias' holds NaN or an infinity"),
    ):
        weights = {n: t for n, t in (plain(real) | changes).items() if t is not None}
        with pytest.raises(Corrupt, match=said):
            register(real, safetensors.torch.save(weights))
    assert real.store.adapters.versions("zoo", "mine") == []


def test_a_task_of_the_same_classes_in_another_order_takes_a_folded_file(real: Real) -> None:
    spec = TaskSpec.of(**dict(real.task.spec) | {"name": "other", "classes": PERMUTED})
    other = real.store.tasks.put(spec, real.head(4).tensors())
    member = one_model.resolve(real.store, "lora", "zoo")
    data = folding.folded(real.loader, member).encode()
    saved(real, data).register(real.store, other, name="mine", classes=None)
    order = [CLASSES.index(name) for name in PERMUTED]
    assert relative(real.logits("other/mine"), real.logits("lora")[:, order]) <= 1e-4
