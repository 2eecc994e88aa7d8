"""Folders as PEFT saves them, written without PEFT: random LoRAs at modules of any names."""

import json
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from model_store.interchange.peft_names import CONFIG, PREFIX, WEIGHTS

WIDTH = 192
"""Of the backbone of `tests.model_store.real`."""


def lora(
    folder: Path,
    modules: Sequence[str],
    *,
    rank: int = 2,
    width: int = WIDTH,
    outputs: int | None = None,
    head: str | None = "head",
    more: dict[str, Tensor] | None = None,
    **settings: object,
) -> Path:
    """A folder with a LoRA at every module of a name, and a head of 5 classes.

    Args:
        outputs: Of every module; None is that of qkv.
        more: Further tensors, by name without `base_model.model.`.
        settings: Of the config.
    """
    folder.mkdir(exist_ok=True)
    torch.manual_seed(7)
    found: dict[str, Tensor] = {}
    for module in modules:
        found[f"{module}.lora_A.weight"] = torch.randn(rank, width)
        found[f"{module}.lora_B.weight"] = 0.1 * torch.randn(outputs or 3 * width, rank)
    if head is not None:
        found |= {f"{head}.weight": torch.randn(5, width), f"{head}.bias": torch.randn(5)}
    found |= more or {}
    (folder / WEIGHTS).write_bytes(safetensors.torch.save({PREFIX + n: t for n, t in found.items()}))
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted({name.rpartition(".")[2] for name in modules}) or ["qkv"],
        "modules_to_save": None if head is None else [head],
    }
    (folder / CONFIG).write_text(json.dumps(config | settings))
    return folder


def qkv(folder: Path, **settings: object) -> Path:
    """A LoRA of both blocks' qkv of timm's ViT."""
    return lora(folder, [f"blocks.{i}.attn.qkv" for i in range(2)], **settings)  # type: ignore[arg-type]
