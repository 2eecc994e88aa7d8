"""What the tensors of a PEFT folder are called: LoRA matrices by module, and the head.

Wrappers and other libraries put something in front of every name; a ViT of transformers has queries, keys and
values apart.
"""

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from model_store.sources import transformers_vit
from petl_vit.errors import Corrupt, Unsupported

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts in front of every name."""

Target = Literal["qkv", "proj", "fc1", "fc2"]
SITES: dict[Target, str] = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}

HEAD = ("head.weight", "head.bias")
HEADS = ("head", "classifier", "fc")
"""What timm, transformers and others call a linear head."""

OF_TRANSFORMERS = ("vit", "deit", "dinov2", "dinov2_with_registers")
"""What transformers calls the ViT in a classifier."""

_LORA = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
_SITE = re.compile(r"(?:(.*)\.)?blocks\.(\d{1,4})\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)")


class Site(NamedTuple):
    """A linear that is adapted: what stands before its name, timm's name, and which third of qkv it is."""

    prefix: str
    module: str
    part: int | None


def site_of(path: str) -> Site | None:
    """The linear that a module's name means; None where it is not one that can be adapted."""
    match = _SITE.fullmatch(path)
    if match is not None:
        return Site(match[1] or "", f"blocks.{int(match[2])}.{match[3]}", None)
    meant = transformers_vit.module(path)
    if meant is None or meant.name.split(".", 2)[2] not in SITES.values():
        return None
    return Site(transformers_vit.before(path), meant.name, meant.part)


def sorted_out(found: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor], str]:
    """LoRA matrices by module and kind, the head, and what stands before all names; else refused by name."""
    lora: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for full_name, tensor in sorted(found.items()):
        name = full_name.removeprefix(PREFIX)
        match = _LORA.fullmatch(name)
        if match is not None and site_of(match[1]) is not None:
            lora.setdefault(match[1], {})[match[2]] = tensor
        else:
            others[name] = tensor
    if not lora:
        if others:
            raise _foreign(min(others))
        raise Corrupt("it holds no LoRA matrix of a timm ViT", field=WEIGHTS)
    prefixes = sorted({site.prefix for path in lora if (site := site_of(path)) is not None})
    if len(prefixes) > 1:
        raise Unsupported(
            f"it adapts several models, whose names begin with {', '.join(map(repr, prefixes[:4]))}",
            field=WEIGHTS,
            remedy="save an adapter of one ViT",
        )
    head, foreign = _head(others, prefixes[0])
    if foreign:
        raise _foreign(foreign[0])
    if head and (sorted(head) != sorted(HEAD) or head["head.weight"].dim() != 2):
        raise Corrupt("its head is not a linear layer with a bias", field=WEIGHTS)
    return lora, head, prefixes[0]


def _head(others: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], list[str]]:
    """The head's tensors, inside the wrapped ViT or beside it, and the names that are not its."""
    parts = prefix.split(".") if prefix else []
    places = {".".join([*parts[:depth], head]) for depth in range(len(parts) + 1) for head in HEADS}
    head, foreign = {}, []
    for name, tensor in others.items():
        place, _, kind = name.rpartition(".")
        if place in places and f"head.{kind}" not in head:
            head[f"head.{kind}"] = tensor.float()
        else:
            foreign.append(name)
    return head, foreign


def _foreign(name: str) -> Unsupported:
    where = f"({', '.join(get_args(Target))} of a timm ViT's blocks can be adapted)"
    if name.startswith("patch_embed."):
        return Unsupported(
            f"it adapts {name.partition('.lora')[0]}, a convolution {where}",
            field=WEIGHTS,
            remedy='`proj` also matches it: train with target_modules=["attn.proj"] instead',
        )
    return Unsupported(
        f"it holds {name[:80]} {where}",
        field=WEIGHTS,
        remedy="train a plain LoRA of these linears, with modules_to_save=['head']",
    )


def fused(thirds: Mapping[int | None, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """LoRAs of queries (0), keys (1) and values (2) as one of qkv, of their ranks' sum."""
    width = next(iter(thirds.values()))[1].shape[0]
    a = torch.cat([a for a, _ in thirds.values()])
    b = a.new_zeros(3 * width, len(a))
    column = 0
    for part, (_, own) in thirds.items():
        assert part is not None
        b[part * width : (part + 1) * width, column : column + own.shape[1]] = own
        column += own.shape[1]
    return a, b
