"""Folders of PEFT: two bytes say how long the config is, then the weights. What is read is registered."""

import tempfile
from pathlib import Path

import torch

from fuzz.targets.world import DEPTH, WIDTH, small_store
from model_store.format import tensors
from model_store.interchange import peft_types
from model_store.interchange.peft_names import CONFIG, WEIGHTS
from petl_vit.errors import CorollaError

_STORE, _TASK = small_store()
_FOLDER = Path(tempfile.mkdtemp(prefix="corolla-fuzz-"))


def seeds() -> list[bytes]:
    said = b'{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["attn.qkv"], '
    said += b'"modules_to_save": ["head"]}'
    prefix = "base_model.model."
    found = {f"{prefix}head.weight": torch.ones(2, WIDTH), f"{prefix}head.bias": torch.zeros(2)}
    for block in range(DEPTH):
        site = f"{prefix}blocks.{block}.attn.qkv"
        found[f"{site}.lora_A.weight"] = torch.ones(1, WIDTH)
        found[f"{site}.lora_B.weight"] = torch.ones(3 * WIDTH, 1)
    return [len(said).to_bytes(2, "little") + said + tensors.encode(found)]


def check(data: bytes) -> None:
    end = 2 + int.from_bytes(data[:2], "little")
    (_FOLDER / CONFIG).write_bytes(data[2:end])
    (_FOLDER / WEIGHTS).write_bytes(data[end:])
    try:
        folder = peft_types.read(_FOLDER)
        folder.register(_STORE, _TASK, name="imported", classes=None)
    except CorollaError:
        return
