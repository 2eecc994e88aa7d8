"""PEFT folders that mean less than they say, or something else: refused with the field and the remedy."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model_store.interchange import peft_types
from model_store.interchange.foreign import Registered
from model_store.interchange.peft_names import CONFIG, PICKLED, WEIGHTS
from model_store.store import Store
from petl_vit.errors import Corrupt, InvalidInput, NotFound, Unsupported
from tests.model_store.interchange.peft_folders import WIDTH, lora, qkv
from tests.model_store.real import Real

TEXT = "text_model.encoder.layers.0.self_attn.q_proj"
VISION = "vision_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    return Real(Store.open(str(tmp_path_factory.mktemp("store"))))


def register(real: Real, folder: Path, head: str | None = None) -> Registered:
    source = peft_types.read(folder)
    return source.register(real.store, real.task, name="theirs", classes=None, head=head)


@pytest.mark.parametrize("targets", [["query", "value"], [], r".*\.(query|value)"])
def test_a_module_that_the_config_does_not_name_is_refused(
    real: Real, tmp_path: Path, targets: str | list[str]
) -> None:
    with pytest.raises(Corrupt, match=rf"{CONFIG}: it holds blocks\.0\.attn\.qkv.*PEFT would leave it out"):
        register(real, qkv(tmp_path / "a", target_modules=targets))


def test_a_target_that_matched_nothing_is_said(real: Real, tmp_path: Path) -> None:
    done = register(real, qkv(tmp_path / "a", target_modules=["qkv", "query"]))
    assert "target_modules 'query' matched no module, so PEFT trained nothing there" in done.notes


def test_targets_that_all_matched_nothing_are_refused(real: Real, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInput, match=r"\['query'\] matched none, and PEFT then trains nothing.*attn\.qkv"
    ):
        register(real, lora(tmp_path / "a", [], target_modules=["query"]))


def test_an_adapter_that_was_not_trained_is_said(real: Real, tmp_path: Path) -> None:
    zeros = {f"blocks.{i}.attn.qkv.lora_B.weight": torch.zeros(3 * WIDTH, 2) for i in range(2)}
    done = register(real, qkv(tmp_path / "a", more=zeros))
    assert any("every lora_B is zero" in note for note in done.notes)


@pytest.mark.parametrize(
    ("more", "settings", "said"),
    [
        (
            {"blocks.0.mlp.fc2.ia3_l": torch.ones(1, 768)},
            {"target_modules": ["qkv", "fc2"]},
            r"two types, IA3 \(blocks\.0\.mlp\.fc2\.ia3_l\) and LORA.*folder of its own",
        ),
        ({}, {"peft_type": "LOHA"}, "peft_type is LOHA, and .* is of LORA"),
    ],
)
def test_two_types_in_one_folder_are_refused(
    real: Real, tmp_path: Path, more: dict[str, Tensor], settings: dict[str, object], said: str
) -> None:
    with pytest.raises((Unsupported, Corrupt), match=said):
        register(real, qkv(tmp_path / "a", more=more, **settings))


def test_two_spellings_of_one_linear_are_refused(real: Real, tmp_path: Path) -> None:
    names = ["layers.0.attention.q_proj", "layers.0.attention.attention.query"]
    with pytest.raises(Unsupported, match="are the same linear"):
        register(real, lora(tmp_path / "a", names, outputs=WIDTH))


def test_a_rank_of_zero_is_refused(real: Real, tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match=r"rank 0, so it changes nothing.*r >= 1"):
        register(real, qkv(tmp_path / "a", rank=0, r=1))


def test_a_lora_of_a_wider_model_names_both_widths(real: Real, tmp_path: Path) -> None:
    folder = lora(tmp_path / "a", ["vit.layers.0.attention.q_proj"], width=768, outputs=768, head=None)
    with pytest.raises(InvalidInput, match=r"task: .*takes 768 and gives 2304.*takes 192 and gives 576"):
        register(real, folder)


def test_an_adapter_of_the_text_tower_is_refused(real: Real, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"a text tower.*an image tower.*--embeddings"):
        register(real, lora(tmp_path / "a", [TEXT], outputs=WIDTH, head=None))
    mapping = {"base_model_class": "CLIPTextModel"}
    with pytest.raises(InvalidInput, match="an adapter of a CLIPTextModel"):
        register(real, qkv(tmp_path / "b", head=None, auto_mapping=mapping))


def test_an_adapter_of_both_towers_needs_the_head_that_the_text_tower_makes(
    real: Real, tmp_path: Path
) -> None:
    folder = lora(tmp_path / "a", [TEXT, VISION], outputs=WIDTH, head=None)
    with pytest.raises(InvalidInput, match=r"text tower too.*--head FILE with the classes' embeddings"):
        register(real, folder)
    torch.save({"weight": torch.randn(5, WIDTH)}, tmp_path / "head.pt")
    (left_out,) = register(real, folder, str(tmp_path / "head.pt")).left_out
    assert TEXT in left_out
    assert "the head has what the text tower says" in left_out


def test_a_change_without_an_effect_is_left_out_and_said(real: Real, tmp_path: Path) -> None:
    more = {f"vit.pooler.dense.lora_{kind}.weight": torch.ones(2, 2) for kind in "AB"}
    names = ["vit.layers.0.attention.q_proj"]
    done = register(real, lora(tmp_path / "a", names, outputs=WIDTH, head="classifier", more=more))
    assert "vit.pooler.dense" in done.left_out[0]
    assert "no feature depends on the pooler" in done.left_out[0]


def test_a_lora_of_the_head_leads_to_a_merged_checkpoint(real: Real, tmp_path: Path) -> None:
    more = {f"classifier.lora_{kind}.weight": torch.ones(2, 2) for kind in "AB"}
    with pytest.raises(
        Unsupported, match=r"weights of classifier, which are not.*merge_and_unload.*whole checkpoint"
    ):
        register(real, qkv(tmp_path / "a", head=None, more=more))


def test_a_folder_without_weights_says_what_to_save(tmp_path: Path) -> None:
    folder = qkv(tmp_path / "a")
    (folder / WEIGHTS).rename(folder / "linearized_adapter_model.safetensors")
    with pytest.raises(NotFound, match=r"linearised.*merge"):
        peft_types.read(folder)
    (folder / "linearized_adapter_model.safetensors").unlink()
    with pytest.raises(NotFound, match=rf"no {WEIGHTS}; save it with model\.save_pretrained"):
        peft_types.read(folder)


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("true",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    folder = qkv(tmp_path / "a")
    (folder / WEIGHTS).unlink()
    torch.save({"x": _Runs()}, folder / PICKLED)
    with pytest.raises(InvalidInput, match=f"{PICKLED}: .*code in a pickle is never run"):
        peft_types.read(folder)


def test_ranks_beyond_those_of_lora_are_edits_of_their_own(real: Real, tmp_path: Path) -> None:
    names = [f"vit.layers.0.attention.{name}_proj" for name in "qkv"]
    folder = lora(tmp_path / "a", names, outputs=WIDTH, rank=180, head="classifier")
    assert register(real, folder).published.manifest.method == "imported"


def test_an_adapter_of_a_model_that_no_backbone_is_says_so(real: Real, tmp_path: Path) -> None:
    of = {"base_model_class": "BeitModel", "parent_library": "transformers.models.beit.modeling_beit"}
    done = register(real, qkv(tmp_path / "a", auto_mapping=of))
    assert any("made over a BeitModel" in note for note in done.notes)
    with pytest.raises(
        Unsupported, match=r"attn1\.to_q.*no linear or norm of a ViT; adapters of ViT, DINOv2"
    ):
        register(real, lora(tmp_path / "b", ["down_blocks.0.attn1.to_q"], head=None))
