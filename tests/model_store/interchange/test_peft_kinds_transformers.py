"""PEFT's types on models of transformers, where queries, keys and values are linears of their own."""

import copy
from pathlib import Path
from typing import Any

import pytest

from model_store.interchange import peft_types
from petl_vit.errors import Unsupported
from tests.model_store.interchange.peft_kinds import name_of, trained
from tests.model_store.interchange.test_peft_transformers import ALL
from tests.model_store.interchange.transformers_models import Hugging
from tests.petl_vit.backbones import relative

pytestmark = pytest.mark.slow
pytest.importorskip("peft", reason="needs Hugging Face PEFT (the dev extra)")
pytest.importorskip("transformers", reason="needs transformers (the dev extra)")

IA3 = {"feedforward_modules": ["fc2"]}
KINDS: dict[str, dict[str, Any]] = {
    "DoRA, all biases": {},
    "PiSSA": {},
    "OLoRA": {},
    "VeRA, projections left out": {},
    "IA3": IA3,
    "LN-tuning": {"target_modules": ["layernorm_before", "layernorm_after", "layernorm"]},
    "LoKr": {},
    "LoHa": {},
    "HRA": {},
    "MiSS": {},
    "GraLoRA": {},
    "PSOFT": {},
    "OFT": {},
    "BOFT": {},
    "FourierFT": {},
}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Hugging:
    return Hugging("vit", tmp_path_factory.mktemp("vit"))


def check(model: Hugging, kind: str, folder: Path, targets: list[str], **settings: Any) -> list[str]:
    """PEFT's logits come from its folder; returns the notes."""
    heads = ["classifier"] if hasattr(model.frozen, "classifier") else None
    settings = {"target_modules": targets, "modules_to_save": heads} | settings
    expected = model.expected(trained(kind, copy.deepcopy(model.frozen), folder, **settings))
    source = peft_types.read(folder)
    notes = source.register(model.store, model.task, name=name_of(kind), classes=None).notes
    assert relative(model.logits(name_of(kind)), expected) <= 1e-5
    assert relative(model.logits("base"), expected) > 1e-3
    return notes


@pytest.mark.parametrize("kind", KINDS)
def test_pefts_logits_come_from_a_folder_over_vit(vit: Hugging, tmp_path: Path, kind: str) -> None:
    check(vit, kind, tmp_path, ALL["vit"], **KINDS[kind])


def test_turned_inputs_keep_to_their_part(vit: Hugging, tmp_path: Path) -> None:
    notes = check(vit, "OFT", tmp_path, ["q_proj", "v_proj"])
    assert notes[0] == "its rows are multiplied by 4 frozen weights once more"


@pytest.mark.parametrize("kind", ["DoRA", "IA3"])
@pytest.mark.parametrize("family", ["clip", "dinov3-gated"])
def test_and_over_other_families(tmp_path: Path, family: str, kind: str) -> None:
    model = Hugging(family, tmp_path / "model")
    down = "fc2" if family == "clip" else "down_proj"
    settings = {"feedforward_modules": [down]} if kind == "IA3" else {}
    check(model, kind, tmp_path / "peft", ALL[family], **settings)


def test_vectors_that_depend_on_the_order_of_modules_are_refused(vit: Hugging, tmp_path: Path) -> None:
    settings = {"target_modules": ALL["vit"], "modules_to_save": ["classifier"]}
    trained("TinyLoRA, tied", copy.deepcopy(vit.frozen), tmp_path, **settings)
    with pytest.raises(Unsupported, match=r"order of the modules.*weight_tying=1\.0"):
        peft_types.read(tmp_path).register(vit.store, vit.task, name="tiny", classes=None)
