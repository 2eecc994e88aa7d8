"""The Vision Transformers of Hugging Face's transformers under timm's names: ViT, DeiT, ViTMAE, DINOv2.

The same model with queries, keys and values in three linears and other names. Both spellings are read: that
of released files (`encoder.layer.0.attention.attention.query`) and that of transformers 5 in memory, which
PEFT saves (`layers.0.attention.q_proj`). Needs no transformers. Source: transformers.models.vit, .dinov2.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

ANCHORS = ("embeddings.patch_embeddings.projection.weight", "embeddings.cls_token")
"""Names that every such model has, and no model of timm."""

_LAYER = re.compile(r"(?:(.*)\.)?(?:encoder\.layer|layers)\.(\d{1,4})\.(.+)")
_MODULES = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.attention.query": "attn.qkv",
    "attention.attention.key": "attn.qkv",
    "attention.attention.value": "attn.qkv",
    "attention.q_proj": "attn.qkv",
    "attention.k_proj": "attn.qkv",
    "attention.v_proj": "attn.qkv",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "layer_scale1": "ls1",
    "layer_scale2": "ls2",
}
_PARTS = {"query": 0, "key": 1, "value": 2, "q_proj": 0, "k_proj": 1, "v_proj": 2}
_OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "embeddings.mask_token": "mask_token",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
    "classifier.weight": "head.weight",
    "classifier.bias": "head.bias",
}


class Module(NamedTuple):
    """A linear of transformers' ViT.

    Attributes:
        name: timm's name of the linear that it is, or is a third of.
        part: 0, 1 or 2 where it is the queries', keys' or values' third; else None.
    """

    name: str
    part: int | None


def module(name: str) -> Module | None:
    """The linear, norm or LayerScale that a name without `.weight` or `.bias` means; None for any other."""
    match = _LAYER.fullmatch(name)
    if match is None or match[3] not in _MODULES:
        return None
    return Module(f"blocks.{int(match[2])}.{_MODULES[match[3]]}", _PARTS.get(match[3].rpartition(".")[2]))


def before(name: str) -> str:
    """What stands before the layers in a name that `module` knows, such as `vit`."""
    match = _LAYER.fullmatch(name)
    return (match[1] or "") if match is not None else ""


def is_one(names: Iterable[str]) -> bool:
    """Whether a table of tensors has the names of transformers' ViT."""
    return any(name in ANCHORS or module(name.rpartition(".")[0]) is not None for name in names)


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ViT of transformers under timm's names; what timm has no name for keeps its own.

    Three thirds of one kind become one qkv tensor; where one is missing, the others keep their names.
    """
    found: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, tuple[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        path, _, kind = name.rpartition(".")
        meant = module(path)
        if meant is None or before(path):
            found[_OUTSIDE.get(name, name)] = tensor
        elif meant.part is None:
            found[f"{meant.name}.{'gamma' if kind == 'lambda1' else kind}"] = tensor
        else:
            thirds.setdefault(f"{meant.name}.{kind}", {})[meant.part] = (name, tensor)
    for name, parts in thirds.items():
        if len(parts) == 3:
            found[name] = torch.cat([parts[part][1] for part in range(3)])
        else:
            found |= dict(parts.values())
    return found
