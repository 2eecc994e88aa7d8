"""The head of an adapter of PEFT: the folder's, the task's or a file's, over the backbone's feature."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from model_store.interchange import peft_types
from model_store.interchange.foreign import Registered
from model_store.store import Store
from petl_vit.errors import Corrupt, InvalidInput, NotFound
from tests.model_store.interchange.peft_folders import WIDTH, lora, qkv
from tests.model_store.real import CLASSES, Real


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    return Real(Store.open(str(tmp_path_factory.mktemp("store"))))


def register(real: Real, folder: Path, name: str = "theirs", **settings: Any) -> Registered:
    settings = {"classes": None} | settings
    return peft_types.read(folder).register(real.store, real.task, name=name, **settings)


def head_of(real: Real, done: Registered) -> dict[str, Tensor]:
    """The head that was registered."""
    found = real.store.adapters.load(done.published.manifest)
    return {name: tensor for name, tensor in found.items() if name.startswith("head.")}


def test_an_adapter_without_a_head_has_the_tasks(real: Real, tmp_path: Path) -> None:
    done = register(real, qkv(tmp_path / "a", head=None))
    assert "it brings no head, so it has the task's base head" in done.notes
    for name, tensor in real.head(1).tensors().items():
        assert torch.equal(head_of(real, done)[name], tensor)


def test_the_tasks_head_can_take_the_place_of_the_folders(real: Real, tmp_path: Path) -> None:
    done = register(real, qkv(tmp_path / "a"), head="base")
    assert torch.equal(head_of(real, done)["head.weight"], real.head(1).weight)
    assert done.left_out == ("its head, for the one that --head names",)


@pytest.mark.parametrize(
    "names", [("weight", "bias"), ("classifier.weight", "classifier.bias"), ("fc.weight",)]
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_head_comes_from_a_file(real: Real, tmp_path: Path, names: tuple[str, ...], suffix: str) -> None:
    weight, file = torch.randn(5, WIDTH), tmp_path / f"head{suffix}"
    found = dict(zip(names, (weight, torch.ones(5)), strict=False))
    if suffix == ".pt":
        torch.save(found, file)
    else:
        file.write_bytes(safetensors.torch.save(found))
    done = register(real, qkv(tmp_path / "a", head=None), head=str(file))
    assert torch.equal(head_of(real, done)["head.weight"], weight)
    assert torch.equal(head_of(real, done)["head.bias"], torch.full((5,), float(len(names) - 1)))
    assert "order of the task's classes" in done.notes[-1]
    turned = register(
        real, qkv(tmp_path / "a", head=None), "turned", head=str(file), classes=tuple(reversed(CLASSES))
    )
    assert torch.equal(head_of(real, turned)["head.weight"], weight.flip(0))


def test_a_zero_shot_head_comes_from_the_file_that_a_zero_shot_task_comes_from(tmp_path: Path) -> None:
    from model_store.format.records import TaskSpec
    from petl_vit.heads import ClipHead

    real = Real(Store.open(str(tmp_path / "store")))
    projection = torch.randn(WIDTH, 16)
    base = ClipHead(projection=projection, weight=torch.randn(5, 16), bias=torch.zeros(5))
    spec = TaskSpec.of(**(dict(real.task.spec) | {"name": "pets"}))
    task = real.store.tasks.put(spec, base.tensors())
    embeddings = torch.nn.functional.normalize(torch.randn(5, 16), dim=-1)
    file = tmp_path / "head.npz"
    np.savez(
        file,
        class_embeddings=embeddings.numpy(),
        projection=projection.numpy(),
        classes=list(reversed(CLASSES)),
    )
    folder = qkv(tmp_path / "a", head=None)
    done = peft_types.read(folder).register(real.store, task, name="theirs", classes=None, head=str(file))
    assert torch.allclose(head_of(real, done)["head.weight"], 100 * embeddings.flip(0), rtol=1e-5)
    assert torch.equal(head_of(real, done)["head.projection"], projection)
    with pytest.raises(Corrupt, match="head is of the CLIP kind"):
        register(real, folder, head=str(file))


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"weight": torch.ones(5, 100)}, "100 columns.*192 numbers.*another model"),
        ({"weight": torch.ones(5, 2 * WIDTH)}, r"--option global_pool=token\+avg"),
        ({"weight": torch.ones(4, WIDTH)}, "4 rows, task 'zoo' has 5"),
        ({"head.weight": torch.ones(5, 3), "fc.weight": torch.ones(5, 3)}, "several, .*save weight"),
        ({"blocks.0.norm1.weight": torch.ones(3)}, "no one linear head"),
        ({"weight": torch.full((5, WIDTH), float("nan"))}, "NaN"),
    ],
)
def test_a_file_that_is_no_head_of_the_task_is_refused(
    real: Real, tmp_path: Path, tensors: dict[str, Tensor], said: str
) -> None:
    (tmp_path / "head.safetensors").write_bytes(safetensors.torch.save(tensors))
    with pytest.raises((InvalidInput, Corrupt), match=said):
        register(real, qkv(tmp_path / "a", head=None), head=str(tmp_path / "head.safetensors"))
    for absent in ("absent.pt", "absent.npz"):
        with pytest.raises(NotFound, match=r"^head: .*not a file"):
            register(real, qkv(tmp_path / "a", head=None), head=str(tmp_path / absent))


def test_the_order_of_the_tasks_own_head_is_not_asked_for(real: Real, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"order: .*rows are in the task's order; leave it out"):
        register(real, qkv(tmp_path / "a", head=None), order="timm")


def test_a_folder_that_lost_its_head_says_so(real: Real, tmp_path: Path) -> None:
    folder = qkv(tmp_path / "a", head=None, modules_to_save=["classifier"])
    with pytest.raises(Corrupt, match=r"'classifier' was saved.*PiSSA.*--head FILE"):
        register(real, folder)
    assert register(real, folder, "lost", head="base").left_out == ()


def test_a_head_of_the_class_token_with_the_mean_of_patches_names_the_backbone_it_needs(
    real: Real, tmp_path: Path
) -> None:
    wide = {"classifier.weight": torch.ones(5, 2 * WIDTH), "classifier.bias": torch.ones(5)}
    folder = lora(
        tmp_path / "a",
        ["dinov2.encoder.layer.0.attention.attention.query"],
        outputs=WIDTH,
        head=None,
        more=wide,
    )
    with pytest.raises(InvalidInput, match=r"Dinov2ForImageClassification.*global_pool=token\+avg"):
        register(real, folder)
    assert register(real, folder, "dino", head="base").left_out


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("CLIPForImageClassification", "before the final norm.*final_norm=false"),
        ("SiglipForImageClassification", "after the final norm.*fc_norm=false"),
    ],
)
def test_a_head_over_the_mean_of_patches_is_refused_where_the_class_token_is_pooled(
    real: Real, tmp_path: Path, model: str, said: str
) -> None:
    folder = lora(
        tmp_path / "a",
        ["vision_model.encoder.layers.0.self_attn.q_proj"],
        outputs=WIDTH,
        head="classifier",
        auto_mapping={"base_model_class": model},
    )
    with pytest.raises(InvalidInput, match=said):
        register(real, folder)
