"""A folded model is a file that timm alone runs to the same logits."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from model_store.format.records import Draft, TaskSpec
from model_store.interchange import folding
from model_store.resolution import one_model
from model_store.resolution.loading import Loader
from model_store.store import Store
from petl_vit import methods
from petl_vit.errors import InvalidInput, Unsupported
from petl_vit.heads import ClipHead
from tests.model_store.real import CLASSES, Real
from tests.petl_vit.adapters import NAMES
from tests.petl_vit.backbones import relative

FOLDABLE = [name for name in NAMES if methods.get(name).foldable]
REST = [name for name in NAMES if name not in FOLDABLE]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    made = Real(Store.open(str(tmp_path_factory.mktemp("store"))))
    for name in NAMES:
        made.publish(name)
    return made


def folded(real: Real, text: str, alpha: float = 1.0) -> folding.Folded:
    member = one_model.resolve(real.store, text, "zoo")
    return folding.folded(real.loader, member, alpha=alpha)


def timm_logits(real: Real, found: folding.Folded) -> torch.Tensor:
    """By timm, from the bytes of the file."""
    model = real.timm()
    model.load_state_dict(safetensors.torch.load(found.encode()), strict=True)
    with torch.no_grad():
        return model(real.images)


@pytest.mark.parametrize("name", [name.replace("_", "-") for name in FOLDABLE])
@pytest.mark.parametrize("share", ["", "0.4*"])
def test_timm_alone_gives_the_same_logits_for_every_method_that_folds(
    real: Real, name: str, share: str
) -> None:
    found = timm_logits(real, folded(real, f"{share}{name}"))
    assert relative(found, real.logits(f"{share}{name}")) <= 1e-4


@pytest.mark.parametrize(
    "text",
    [
        "0.5*lora + 0.5*repadapter",
        "0.3*full + 0.5*ssf + 0.2*bitfit:1",
        "base",
        "0.5*base + 0.2*lora",
        "0.3[0]*lora + 0.9[1]*lora + 0.2..1*full",
        "0.7[1]*ssf",
    ],
)
def test_timm_alone_gives_the_same_logits_for_sums(real: Real, text: str) -> None:
    assert relative(timm_logits(real, folded(real, text)), real.logits(text)) <= 1e-4


def test_alpha_multiplies_the_whole_model(real: Real) -> None:
    found = timm_logits(real, folded(real, "lora + 0.2..1*ssf", alpha=0.5))
    assert relative(found, real.logits("0.5*lora + 0.1..0.5*ssf")) <= 1e-4


def test_a_soup_folds_where_its_members_do(real: Real) -> None:
    lora, ssf = (real.store.adapters.manifest("zoo", name, 1) for name in ("lora", "ssf"))
    terms = [{"weight": 0.5, "method": m.method, "config": m.config} for m in (lora, ssf)]
    tensors = {
        f"{i}.{name}": tensor
        for i, m in enumerate((lora, ssf))
        for name, tensor in real.store.adapters.load(m).items()
        if not name.startswith("head.")
    }
    config = methods.get("soup").configure({"terms": terms}).model_dump(mode="json")
    draft = Draft.of(
        **{n: getattr(lora, n) for n in Draft.model_fields}
        | {"name": "s", "method": "soup", "config": config}
    )
    real.store.adapters.publish(draft, tensors | real.head(3).tensors())
    assert relative(timm_logits(real, folded(real, "s")), real.logits("s")) <= 1e-4


def test_the_file_explains_itself(real: Real, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    path.write_bytes(folded(real, "0.5*lora").encode())
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert header["route"] == "0.5*lora:1"
    assert header["task"] == "zoo"
    assert json.loads(header["classes"]) == list(CLASSES)
    assert json.loads(header["image_size"]) == 48
    assert json.loads(header["mean"]) == [0.5, 0.5, 0.5]
    assert header["architecture"] == "vit_tiny_patch16_224"
    assert json.loads(header["options"]) == {"depth": 2}
    assert json.loads(header["digests"]) == {"lora:1": real.store.adapters.manifest("zoo", "lora", 1).digest}


@pytest.mark.parametrize("name", REST)
def test_a_method_that_does_not_fold_is_refused_by_name_with_the_remedy(real: Real, name: str) -> None:
    label = name.replace("_", "-")
    with pytest.raises(Unsupported, match=rf"{label}:1 \({name}\) cannot become plain weights.*archive"):
        folded(real, f"0.5*lora + 0.5*{label}")


def test_an_ensemble_is_refused(real: Real) -> None:
    with pytest.raises(Unsupported, match=r"2 models.*join them with"):
        one_model.resolve(real.store, "lora, ssf", "zoo")


def test_an_alpha_outside_its_range_needs_to_be_asked_for(real: Real) -> None:
    with pytest.raises(InvalidInput, match=r"alpha 1\.5 of lora lies outside"):
        one_model.resolve(real.store, "1.5*lora", "zoo")
    member = one_model.resolve(real.store, "1.5*lora", "zoo", extrapolate=True)
    found = folding.folded(real.loader, member)
    assert relative(timm_logits(real, found), real.logits("1.5*lora")) <= 1e-4


def test_a_bias_that_the_frozen_model_lacks_is_refused(tmp_path: Path) -> None:
    clip = Real(Store.open(str(tmp_path)), "vit_base_patch16_clip_224")
    clip.publish("ssf")
    clip.publish("lora")
    with pytest.raises(Unsupported, match=r"adds patch_embed\.proj\.bias.*lora"):
        folded(clip, "ssf")
    assert relative(timm_logits(clip, folded(clip, "lora")), clip.logits("lora")) <= 1e-4
    assert relative(timm_logits(clip, folded(clip, "0*ssf")), clip.logits("0*ssf")) <= 1e-4


@pytest.mark.parametrize("architecture", ["vit_small_patch16_224.dino", "vit_base_patch16_siglip_224"])
def test_other_families_fold_too(tmp_path: Path, architecture: str) -> None:
    real = Real(Store.open(str(tmp_path)), architecture)
    real.publish("lora")
    assert relative(timm_logits(real, folded(real, "0.7*lora")), real.logits("0.7*lora")) <= 1e-4


def test_a_head_of_clips_kind_is_refused(tmp_path: Path) -> None:
    real = Real(Store.open(str(tmp_path)))
    spec = TaskSpec.of(**dict(real.task.spec) | {"name": "zoo-clip"})
    head = ClipHead(projection=torch.randn(real.width, 8), weight=torch.randn(5, 8), bias=torch.zeros(5))
    real.store.tasks.put(spec, head.tensors())
    member = one_model.resolve(real.store, "base", "zoo-clip")
    with pytest.raises(Unsupported, match="head of the CLIP kind"):
        folding.folded(Loader(real.store, real.backbone), member)
