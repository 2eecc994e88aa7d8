"""What the tensors of a PEFT folder are called, and which of our linears and norms each name means.

PEFT names a tensor by the path of the module that it is at. Wrappers put something in front of that path.
timm, and transformers in versions 4 and 5, name the same linears differently, and where queries, keys and
values or gate and value are linears of their own, each is a block of rows of one of ours.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from petl_vit.errors import Corrupt, Unsupported

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
MERGE = (
    "merge it: torch.save(model.merge_and_unload().state_dict(), 'merged.pt'), and import that file as a "
    "whole checkpoint"
)
"""The remedy for a change of weights that is not one of edits here: it becomes a whole checkpoint."""

PREFIX = "base_model.model."
"""What PEFT puts in front of every name."""

SITES = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
"""The linears of a block, by the names of targets."""

HEAD = ("head.weight", "head.bias")
HEADS = ("head", "classifier", "fc")
"""What timm, transformers and others call a linear head."""

OF_TRANSFORMERS = ("vit", "deit", "dinov2", "dinov2_with_registers", "vision_model", "model")
"""What transformers calls the ViT in a larger model."""

_BLOCK = re.compile(r"(?:(.*?)\.)??(blocks|encoder\.layers?|model\.layer|layers?)\.(\d{1,4})\.(.+)")
_WHOLE = {
    # timm
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "norm1": "norm1",
    "norm2": "norm2",
    # transformers: ViT and DINOv2 of version 4
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    # DINOv2 and DINOv3 as their authors publish them
    "mlp.w12": "mlp.fc1",
    "mlp.w3": "mlp.fc2",
    # DINOv3, and ViT and DINOv2 of version 5
    "attention.o_proj": "attn.proj",
    "mlp.down_proj": "mlp.fc2",
    # CLIP and SigLIP
    "self_attn.out_proj": "attn.proj",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
}
_QKV = [("attn", "{}_proj"), ("attention", "{}_proj"), ("self_attn", "{}_proj")]
_PARTS = {f"{parent}.{name.format(of)}": place for parent, name in _QKV for place, of in enumerate("qkv")} | {
    f"attention.attention.{of}": place for place, of in enumerate(("query", "key", "value"))
}
_GATED = {
    "mlp.fc1_g": 0,
    "mlp.fc1_x": 1,
    "mlp.gate_proj": 0,
    "mlp.up_proj": 1,
    "mlp.w1": 0,
    "mlp.w2": 1,
}
_POOL = re.compile(r"(?:(.*)\.)?(attn_pool|head)\.(q|kv|proj|mlp\.fc1|mlp\.fc2)")
_TEXT = ("text_model", "text_encoder", "textual", "language_model")
_UNUSED = {
    "pooler.": "no feature depends on the pooler",
    "head.attention.out_proj.": "torch's MultiheadAttention passes a LoRA of out_proj by, in PEFT too",
}
"""Modules whose change has no effect, and why."""
_NORMS = {
    "norm": "norm",
    "fc_norm": "fc_norm",
    "norm_pre": "norm_pre",
    "layernorm": "norm",
    "post_layernorm": "norm",
    "pre_layrnorm": "norm_pre",
}


class Site(NamedTuple):
    """One of our linears or norms, or a block of a linear's rows.

    Attributes:
        prefix: What stands before its name.
        module: Our name of it, such as `blocks.0.attn.qkv`.
        part: Which of the equal blocks of its rows; None where it is all of them.
        parts: How many blocks there are.
    """

    prefix: str
    module: str
    part: int | None = None
    parts: int = 1


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """What a folder has at one module.

    Attributes:
        path: The module's name in the file, which patterns of the config mean.
        tensors: By kind, such as `lora_A`, `bias`, or `weight` of a norm.
    """

    path: str
    site: Site
    tensors: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Named:
    """All tensors of a folder, sorted.

    Attributes:
        prefix: What stands before the names of all modules.
        head: `head.weight` and `head.bias`, or empty.
        text: Names of tensors at a text tower.
        unused: Names of tensors whose change has no effect, and why.
        others: The rest, by name without `base_model.model.`.
    """

    prefix: str
    adapted: tuple[Adapted, ...]
    head: dict[str, Tensor]
    text: tuple[str, ...]
    unused: dict[str, str]
    others: dict[str, Tensor]


def site_of(path: str, *, gated: bool = False) -> Site | None:
    """The linear or norm that a module's name means; None where it is neither.

    Args:
        gated: Whether the backbone's MLP is gated: `up_proj` is then its value, else all of its first linear.
    """
    match, pool = _BLOCK.fullmatch(path), _POOL.fullmatch(path)
    if pool is not None:
        return Site(pool[1] or "", f"attn_pool.{pool[3]}")
    if match is None:
        prefix, _, name = path.rpartition(".")
        inside = name not in _NORMS or _BLOCK.fullmatch(f"{prefix}.x")
        return None if inside else Site(prefix, _NORMS[name])
    prefix, block, name = match[1] or "", f"blocks.{int(match[3])}", match[4]
    if name in _WHOLE:
        return Site(prefix, f"{block}.{_WHOLE[name]}")
    if name in _PARTS:
        return Site(prefix, f"{block}.attn.qkv", _PARTS[name], 3)
    if name == "mlp.up_proj" and not gated:
        return Site(prefix, f"{block}.mlp.fc1")
    return Site(prefix, f"{block}.mlp.fc1", _GATED[name], 2) if name in _GATED else None


def sorted_out(found: Mapping[str, Tensor], *, gated: bool = False) -> Named:
    """The tensors of a folder by module and kind, and its head.

    Raises:
        Unsupported: It adapts several ViTs.
        Corrupt: Its head is not a linear layer.
    """
    modules: dict[str, tuple[Site, dict[str, Tensor]]] = {}
    others: dict[str, Tensor] = {}
    text, unused = list[str](), dict[str, str]()
    for full_name, tensor in sorted(found.items()):
        name = full_name.removeprefix(PREFIX)
        where, why = _module(name, gated=gated), next((_UNUSED[of] for of in _UNUSED if of in name), None)
        if not set(_TEXT).isdisjoint(name.split(".")):
            text.append(name)
        elif why is not None:
            unused[name] = why
        elif where is None:
            others[name] = tensor
        else:
            path, site = where
            modules.setdefault(path, (site, {}))[1][_kind(name[len(path) + 1 :])] = tensor
    prefix = _prefix([site for site, _ in modules.values()])
    head, others = _head(others, prefix)
    return Named(
        prefix=prefix,
        adapted=tuple(Adapted(path=path, site=site, tensors=of) for path, (site, of) in modules.items()),
        head=head,
        text=tuple(text),
        unused=unused,
        others=others,
    )


def _prefix(sites: Sequence[Site]) -> str:
    """What stands before the names of all modules."""
    prefixes = sorted({site.prefix for site in sites})
    if len(prefixes) > 1:
        raise Unsupported(
            f"it adapts several models, whose names begin with {', '.join(map(repr, prefixes[:4]))}",
            field=WEIGHTS,
            remedy="save an adapter of one ViT",
        )
    return prefixes[0] if prefixes else ""


def foreign(name: str) -> Unsupported:
    """The error for a tensor that is at none of the modules that can be adapted."""
    where = f"({', '.join(SITES)} of a ViT's blocks can be adapted)"
    place = name.partition(".lora_")[0]
    if name.startswith("patch_embed."):
        return Unsupported(
            f"it adapts {place}, a convolution {where}",
            field=WEIGHTS,
            remedy=f'`proj` also matches it: train with target_modules=["attn.proj"] instead, or {MERGE}',
        )
    if place != name and place.rpartition(".")[2] in HEADS:
        return Unsupported(
            f"it holds {name[:80]}: a LoRA adds to the weights of {place}, which are not in the folder",
            field=WEIGHTS,
            remedy=f"train with modules_to_save=[{place!r}] and without it in target_modules, or {MERGE}",
        )
    return Unsupported(f"it holds {name[:80]} {where}", field=WEIGHTS, remedy=MERGE)


def _module(name: str, *, gated: bool) -> tuple[str, Site] | None:
    """The longest beginning of a name that is a module's path."""
    path = name.rpartition(".")[0]
    while path:
        site = site_of(path, gated=gated)
        if site is not None:
            return path, site
        path = path.rpartition(".")[0]
    return None


def _kind(rest: str) -> str:
    """`lora_A` of `lora_A.default.weight`; `weight` and `bias` of a module's own."""
    kind = ".".join(part for part in rest.split(".") if part not in ("default", "base_layer"))
    return kind.removesuffix(".weight")


def _head(others: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The head's tensors, inside the wrapped ViT or beside it, and those that are not its."""
    parts = prefix.split(".") if prefix else []
    places = {".".join([*parts[:depth], head]) for depth in range(len(parts) + 1) for head in HEADS}
    head, rest = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in others.items():
        place, _, kind = name.rpartition(".")
        if place in places and f"head.{kind}" in HEAD and f"head.{kind}" not in head:
            head[f"head.{kind}"] = tensor.float()
        else:
            rest[name] = tensor
    if head and (sorted(head) != sorted(HEAD) or head["head.weight"].dim() != 2):
        raise Corrupt(
            "its head is not a linear layer with a bias",
            field=WEIGHTS,
            remedy="add --head base, or --head FILE with a linear head",
        )
    return head, rest
