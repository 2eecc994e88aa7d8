"""LoRA made on the models of transformers: PEFT's logits from PEFT's folders, in both spellings of names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from model_store.interchange import peft_types, timm_checkpoint
from model_store.interchange.peft_names import WEIGHTS
from petl_vit.errors import Unsupported
from tests.model_store.interchange.transformers_models import FAMILIES, Hugging, respelt
from tests.petl_vit.backbones import relative

pytest.importorskip("peft", reason="needs Hugging Face PEFT (the dev extra)")
pytest.importorskip("transformers", reason="needs transformers (the dev extra)")

VERSION_4 = {
    "vit": {
        "vit.layers": "vit.encoder.layer",
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
        ".q_proj": ".query",
        ".k_proj": ".key",
        ".v_proj": ".value",
        ".o_proj": ".dense",
        ".fc1": ".dense",
        ".fc2": ".dense",
    },
    "dinov2": {
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
        ".q_proj": ".query",
        ".k_proj": ".key",
        ".v_proj": ".value",
        ".o_proj": ".dense",
    },
    "dinov3": {"model.model.model.layer": "model.model.layer"},
    "clip": {"model.encoder.layers": "model.vision_model.encoder.layers"},
    "siglip": {
        "model.encoder.layers": "model.vision_model.encoder.layers",
        "model.head": "model.vision_model.head",
    },
}
"""What versions 4 of transformers call what version 5 renamed."""

ALL = {
    "vit": ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"],
    "dinov2": ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"],
    "dinov2-swiglu": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "dinov3": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
    "dinov3-gated": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "clip": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    "siglip": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    "clip-classifier": ["q_proj", "v_proj", "fc1"],
    "siglip-classifier": ["q_proj", "v_proj", "out_proj"],
}
Made = Callable[[str], Hugging]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    known: dict[str, Hugging] = {}

    def of(name: str) -> Hugging:
        if name not in known:
            known[name] = Hugging(name, tmp_path_factory.mktemp(name))
        return known[name]

    return of


def imported(model: Hugging, folder: Path, name: str, **settings: Any) -> list[str]:
    """Register a folder; what the user is told."""
    source = peft_types.read(folder)
    return source.register(model.store, model.task, name=name, classes=None, **settings).notes


@pytest.mark.parametrize("family", FAMILIES)
def test_the_frozen_model_gives_the_logits_of_transformers(made: Made, family: str) -> None:
    model = made(family)
    if hasattr(model.frozen, "classifier"):
        with torch.no_grad():
            model.frozen.classifier.weight.copy_(model.head.weight)
            model.frozen.classifier.bias.copy_(model.head.bias)
    assert relative(model.logits("base"), model.expected(model.frozen)) <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_of_every_linear_gives_pefts_logits(made: Made, tmp_path: Path, family: str) -> None:
    model = made(family)
    expected = model.expected(model.trained(tmp_path, target_modules=ALL[family]))
    imported(model, tmp_path, "all")
    assert relative(model.logits("all"), expected) <= 1e-5
    assert relative(model.logits("base"), expected) > 1e-3


@pytest.mark.parametrize("family", VERSION_4)
def test_the_names_of_transformers_4_mean_the_same(made: Made, tmp_path: Path, family: str) -> None:
    model = made(family)
    targets = [t for t in ALL[family] if t not in ("fc2", "o_proj", "out_proj")]
    expected = model.expected(model.trained(tmp_path, target_modules=targets, rank_pattern={"v_proj": 2}))
    names = VERSION_4[family]
    respelt(tmp_path, names, {"rank_pattern": {"value|v_proj": 2}})
    imported(model, tmp_path, "four")
    assert relative(model.logits("four"), expected) <= 1e-5


@pytest.mark.parametrize(
    "targets", [["q_proj"], ["k_proj"], ["v_proj"], ["q_proj", "v_proj"], ["o_proj", "fc2"]]
)
def test_any_subset_of_targets_is_exact(made: Made, tmp_path: Path, targets: list[str]) -> None:
    model = made("vit")
    expected = model.expected(model.trained(tmp_path, target_modules=targets))
    imported(model, tmp_path, "subset")
    assert relative(model.logits("subset"), expected) <= 1e-5


def test_gate_and_value_in_one_linear_of_version_4_land_on_fc1(made: Made, tmp_path: Path) -> None:
    model = made("dinov2-swiglu")

    def one_down(tuned: Any) -> None:
        parameters = dict(tuned.named_parameters())
        for name, parameter in parameters.items():
            if "gate_proj.lora_A" in name:
                parameters[name.replace("gate_proj", "up_proj")].copy_(parameter)

    tuned = model.trained(tmp_path, one_down, target_modules=["gate_proj", "up_proj"])
    found = safetensors.torch.load((tmp_path / WEIGHTS).read_bytes())
    for name in [name for name in found if "gate_proj" in name]:
        gate, value = found.pop(name), found.pop(name.replace("gate_proj", "up_proj"))
        whole = gate if "lora_A" in name else torch.cat([gate, value])
        found[name.replace("gate_proj", "weights_in")] = whole
    (tmp_path / WEIGHTS).write_bytes(safetensors.torch.save(found))
    respelt(tmp_path, {}, {"target_modules": ["weights_in"]})
    imported(model, tmp_path, "packed")
    assert relative(model.logits("packed"), model.expected(tuned)) <= 1e-5


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (["q_proj", "k_proj", "v_proj", "out_proj"], {}),
        (["q_proj", "v_proj"], {}),
        (["q_proj", "v_proj"], VERSION_4["clip"]),
    ],
    ids=["knots", "fusionbench", "fusionbench-over-the-model"],
)
def test_the_public_packs_of_clip_loras_get_the_tasks_head(
    made: Made, tmp_path: Path, targets: list[str], names: dict[str, str]
) -> None:
    """Rank 16 over CLIP's vision transformer, without a head."""
    model = made("clip")
    expected = model.expected(model.trained(tmp_path, target_modules=targets, r=16, lora_alpha=16))
    notes = imported(model, respelt(tmp_path, names, {}), "pack")
    assert "it brings no head, so it has the task's base head" in notes
    assert relative(model.logits("pack"), expected) <= 1e-5


def test_a_lora_that_torch_passes_by_is_left_out(made: Made, tmp_path: Path) -> None:
    """PEFT gives the out_proj of SigLIP's pooling a LoRA, which its own forward does not run."""
    model = made("siglip")
    expected = model.expected(model.trained(tmp_path, target_modules=["out_proj"]))
    done = peft_types.read(tmp_path).register(model.store, model.task, name="passed", classes=None)
    assert relative(model.logits("passed"), expected) <= 1e-5
    assert "MultiheadAttention passes a LoRA of out_proj by" in done.left_out[0]


@pytest.mark.parametrize("family", ["vit", "dinov2"])
def test_what_is_refused_can_be_merged_and_imported(made: Made, tmp_path: Path, family: str) -> None:
    """A LoRA of the head too, as target_modules="all-linear" makes one."""
    model = made(family)
    tuned = model.trained(tmp_path, target_modules=["q_proj", "classifier"], modules_to_save=None)
    with pytest.raises(Unsupported, match=r"LoRA adds to the weights of classifier.*merge_and_unload"):
        imported(model, tmp_path, "head")
    expected = model.expected(tuned)
    torch.save(tuned.merge_and_unload().state_dict(), tmp_path / "merged.pt")
    timm_checkpoint.read(tmp_path / "merged.pt").register(
        model.store, model.task, name="merged", classes=None
    )
    assert relative(model.logits("merged"), expected) <= 1e-5
