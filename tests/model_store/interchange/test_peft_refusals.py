"""Folders of PEFT's types that contradict themselves or cannot be exact: refused by name, with a remedy."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from model_store.interchange import peft_types
from model_store.interchange.peft_names import CONFIG, WEIGHTS
from model_store.store import Store
from petl_vit.errors import CorollaError, Corrupt, Unsupported
from tests.model_store.interchange.peft_kinds import small
from tests.model_store.real import Real

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    return small(Store.open(str(tmp_path_factory.mktemp("store"))))


def folder(place: Path, peft_type: str, tensors: Tensors, **config: Any) -> Path:
    """A folder of one module alone, blocks.0.attn.proj."""
    (place / CONFIG).write_text(json.dumps({"peft_type": peft_type} | config))
    named = {
        n if n.startswith("base_") else f"base_model.model.blocks.0.attn.proj.{n}": t
        for n, t in tensors.items()
    }
    (place / WEIGHTS).write_bytes(safetensors.torch.save(named))
    return place


def refused(real: Real, place: Path) -> CorollaError:
    with pytest.raises(CorollaError) as error:
        peft_types.read(place).register(real.store, real.task, name="refused", classes=None)
    assert error.value.remedy
    return error.value


LORA = {"lora_A.weight": torch.ones(2, 48), "lora_B.weight": torch.ones(48, 2)}
SETTINGS = {"r": 2, "lora_alpha": 2}


@pytest.mark.parametrize(
    ("peft_type", "said"),
    [
        ("XLORA", r"depends on the input.*one by one"),
        ("POLY", r"depends on the input.*train it again"),
        ("LILY", r"depends on the input.*train it again"),
        ("PREFIX_TUNING", r"language models.*vpt_deep"),
        ("WAVEFT", r"not among the types.*ADALORA.*merge_and_unload"),
    ],
)
def test_a_type_without_an_exact_form_is_refused_by_name(
    real: Real, tmp_path: Path, peft_type: str, said: str
) -> None:
    error = refused(real, folder(tmp_path, peft_type, {"x_y": torch.ones(1)}))
    assert isinstance(error, Unsupported)
    assert f"peft_type '{peft_type}'" in str(error)
    with pytest.raises(Unsupported, match=said):
        raise error


@pytest.mark.parametrize("start", ["corda", "loftq", "lora_ga", "pissa_niter_16"])
def test_a_start_that_moved_the_weight_by_data_names_pefts_conversion(
    real: Real, tmp_path: Path, start: str
) -> None:
    error = refused(real, folder(tmp_path, "LORA", LORA, **SETTINGS, init_lora_weights=start))
    assert start in str(error)
    assert "path_initial_model_for_weight_conversion" in str(error.remedy)


def ones(**shapes: tuple[int, ...]) -> Tensors:
    return {name.replace("__", "."): torch.ones(shape) for name, shape in shapes.items()}


DORA = SETTINGS | {"use_dora": True}
GRALORA = {"gralora_k": 5, "r": 4, "hybrid_r": 0}


@pytest.mark.parametrize(
    ("peft_type", "tensors", "config", "said"),
    [
        ("LORA", LORA, DORA, "no lora_magnitude_vector"),
        ("LORA", LORA, SETTINGS | {"lora_bias": True}, r"no lora_B\.bias"),
        ("LORA", LORA, DORA | {"r": 3}, "rank 2, the config says 3"),
        ("LORA", LORA, DORA | {"lora_alpha": "x"}, "'x' is not a number"),
        ("LORA", LORA | ones(bias=(5,)), SETTINGS | {"bias": "all"}, r"bias has shape \(5,\)"),
        ("ADALORA", ones(lora_A=(2, 48)), {"init_r": 2}, "no lora_E"),
        ("VERA", ones(vera_lambda_d=(2,), vera_lambda_b=(3,)), {}, "lambda_b has shape"),
        ("VBLORA", ones(vblora_logits_A=(2, 4, 9)), {"topk": 2}, "no vblora_vector_bank"),
        ("LOKR", ones(lokr_w1=(2, 2), lokr_w2=(7, 7)), {"r": 1, "alpha": 1}, "lokr_w1 x"),
        ("OFT", ones(oft_R__weight=(6, 5)), {}, "no half of a matrix"),
        ("OFT", ones(oft_R__weight=(7, 6)), {}, "does not fit a linear of 48"),
        ("MISS", ones(miss_block=(3, 5)), {}, "does not fit a linear of 48"),
        ("C3A", ones(c3a_kernel=(2, 2, 5)), {}, "does not fit 48 x 48"),
        ("GRALORA", ones(gralora_A=(3, 16, 4)), GRALORA, "does not divide"),
        ("HRA", {"hra_u": torch.zeros(48, 2)}, {}, "not finite"),
    ],
)
def test_a_folder_that_contradicts_itself_is_refused(
    real: Real, tmp_path: Path, peft_type: str, tensors: Tensors, config: dict[str, Any], said: str
) -> None:
    error = refused(real, folder(tmp_path, peft_type, tensors, **config))
    assert isinstance(error, Corrupt)
    with pytest.raises(Corrupt, match=said):
        raise error


def test_a_setting_that_is_on_and_not_known_is_refused(real: Real, tmp_path: Path) -> None:
    error = refused(real, folder(tmp_path, "HRA", {"hra_u": torch.ones(48, 2)}, of_a_later_peft=True))
    assert "of_a_later_peft" in str(error)


def test_bases_that_a_machine_drew_are_refused(real: Real, tmp_path: Path) -> None:
    tensors = {"randlora_lambda": torch.ones(2, 24), "randlora_gamma": torch.ones(24, 48)}
    error = refused(real, folder(tmp_path, "RANDLORA", tensors, randlora_alpha=2))
    assert "save_projection=True" in str(error.remedy)


def test_boft_with_several_factors_is_refused(real: Real, tmp_path: Path) -> None:
    tensors = {"boft_R": torch.ones(2, 12, 4, 4), "boft_s": torch.ones(48, 1)}
    assert "boft_n_butterfly_factor" in str(refused(real, folder(tmp_path, "BOFT", tensors)))
