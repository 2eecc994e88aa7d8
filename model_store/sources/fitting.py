"""Whether foreign tensors are exactly those of an architecture, and what to say where they are not."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from model_store.sources import gated
from petl_vit import plain_vits
from petl_vit.architecture import Architecture, describe
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import InvalidInput, Unsupported
from petl_vit.timm_names import canonical

_SHOWN = 8
_CANDIDATES = 4
_QKV_BIAS = "attn.qkv.bias"
_KERNEL = "patch_embed.proj.weight"
_FOREIGN = {
    "lora_A": "these are LoRA matrices: `corolla adapters import --format peft` reads them",
    "lora_B": "these are LoRA matrices: `corolla adapters import --format peft` reads them",
    "base_layer": "merge the adapter first: model.merge_and_unload() of PEFT",
    "FacTu": "an adapter of the study's code: `corolla adapters import --format petl-vision` reads it",
}
"""Parts of names that say whose they are."""


def without_head(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of a backbone, and those of its head."""
    head = {name: t for name, t in tensors.items() if name.split(".")[0] in ("head", "head_dist")}
    return {name: t for name, t in tensors.items() if name not in head}, head


def fitted(
    tensors: Mapping[str, Tensor], config: BackboneConfig, what: str, notes: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The tensors by our names, if they are exactly those of the architecture.

    Args:
        what: The file, for the error.
        notes: What was done to the file's names.

    Raises:
        Unsupported: It takes images of another number of channels.
        InvalidInput: A name is missing or unexpected, or a shape differs; names it and what may help.
    """
    arch = describe(config)
    shapes = arch.shapes
    tensors = _without_nothing(canonical(tensors), shapes)
    _check_numbers(tensors, what)
    _check_channels(tensors, arch, what)
    wrong = [
        f"{name} {tuple(tensors[name].shape)} instead of {shapes[name]}"
        for name in sorted(shapes.keys() & tensors.keys())
        if tuple(tensors[name].shape) != tuple(shapes[name])
    ]
    missing, unexpected = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    problems = [
        f"{label} {_listed(names)}"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", wrong))
        if names
    ]
    if problems:
        done = f" ({'; '.join(notes)})" if notes else ""
        raise InvalidInput(
            f"not a {config.architecture} at {config.image_size} px{done}: {'; '.join(problems)}",
            field=what,
            remedy=_remedy(tensors, arch, missing, unexpected),
        )
    return {name: tensors[name].contiguous() for name in shapes}


def _without_nothing(tensors: Mapping[str, Tensor], shapes: Mapping[str, object]) -> dict[str, Tensor]:
    """The tensors without those that the architecture does not have and that add nothing.

    DINOv3's distilled ViTs have biases of zeros, and one without registers has a tensor of none.
    """
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name in shapes or (tensor.numel() and (not name.endswith(f".{_QKV_BIAS}") or bool(tensor.any())))
    }


def _check_numbers(tensors: Mapping[str, Tensor], what: str) -> None:
    whole = next((name for name, tensor in tensors.items() if not tensor.is_floating_point()), None)
    if whole is not None:
        raise InvalidInput(
            f"{whole} has numbers of type {str(tensors[whole].dtype).removeprefix('torch.')}",
            field=what,
            remedy="it may be quantised: save it in float32 or in half precision",
        )


def _check_channels(tensors: Mapping[str, Tensor], arch: Architecture, what: str) -> None:
    kernel = tensors.get(_KERNEL)
    if kernel is None or kernel.dim() != 4 or kernel.shape[1] == arch.shapes[_KERNEL][1]:
        return
    channels = kernel.shape[1]
    remedy = "give a backbone of three channels"
    if channels == 1:
        remedy = (
            f"for grey pictures save its {_KERNEL} as weight.repeat(1, 3, 1, 1) / 3, "
            "which gives the same features from three equal channels"
        )
    raise Unsupported(
        f"it takes images of {channels} channel{'s'[: channels != 1]}, and images have three here",
        field=what,
        remedy=remedy,
    )


def _remedy(
    tensors: Mapping[str, Tensor], arch: Architecture, missing: Sequence[str], unexpected: Sequence[str]
) -> str:
    parts = {part for name in unexpected for part in name.split(".")}
    foreign = next((told for part, told in _FOREIGN.items() if part in parts), None)
    if foreign is not None:
        return foreign
    if any(name.startswith("fc_norm.") for name in unexpected):
        return "it ends in fc_norm: add --option global_pool=avg"
    if any(name.startswith("fc_norm.") for name in missing) and "norm.weight" in unexpected:
        return "it ends in norm: leave out --option global_pool=avg"
    if any(name.endswith(_QKV_BIAS) for name in unexpected) and arch.rotary is not None:
        return f"its queries and values have biases: use --architecture {arch.name.partition('.')[0]}_qkvb"
    of_a_gated = _of_a_gated(tensors, arch)
    if of_a_gated is not None:
        return of_a_gated
    flags = _flags(tensors, arch)
    if flags:
        return f"use {' '.join(flags)}, as its tensors say"
    alike = candidates(tensors)
    if alike:
        return f"its tensors are those of {' or '.join(alike)}"
    return (
        "check --architecture, --image-size and --option (docs/backbones.md has the families that are read)"
    )


def candidates(tensors: Mapping[str, Tensor]) -> list[str]:
    """Some listed architectures whose parameters the tensors are, at any image size."""
    shapes = {name: tuple(tensor.shape) for name, tensor in canonical(tensors).items()}
    position, width = shapes.pop("pos_embed", None), shapes.get("blocks.0.norm1.weight")
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    found = []
    for name in plain_vits.names():
        facts = plain_vits.named(name)
        assert facts is not None
        if (facts.width,) != width or facts.depth != depth:
            continue
        known = dict(facts.shapes(facts.patch_size))
        if (known.pop("pos_embed", None) is None) == (position is None) and known == shapes:
            found.append(name)
    return found[:_CANDIDATES]


def _of_a_gated(tensors: Mapping[str, Tensor], arch: Architecture) -> str | None:
    """What to use for a gated MLP, whose first linear gives twice what the second takes; None for others."""
    if not gated.is_gated(tensors) or arch.fc1_width != arch.hidden:
        return None
    first, second = tensors["blocks.0.mlp.fc1.weight"], tensors["blocks.0.mlp.fc2.weight"]
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    like = f"vit_giant_patch14_{'reg4_' * bool(registers)}dinov2"
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    options = {
        "embed_dim": len(second),
        "depth": len(blocks),
        "mlp_ratio": round(len(first) / len(second), 6),
    }
    if registers:
        options["reg_tokens"] = registers
    flags = [f"--option {name}={value}" for name, value in options.items()]
    position = tensors.get("pos_embed")
    if registers and position is not None and math.isqrt(position.shape[1]) ** 2 != position.shape[1]:
        flags.append("--option no_embed_class=false")  # positions of the class and register tokens, too
    flags.append("--option num_heads with its heads")
    return f"its MLP is gated: try --architecture {like} {' '.join(flags)}"


def _flags(tensors: Mapping[str, Tensor], arch: Architecture) -> list[str]:
    """The flags that bring an architecture's depth and image size to those of the tensors."""
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    size = _size_of(tensors.get("pos_embed"), arch)
    depth = f"--option depth={len(blocks)}" if blocks and len(blocks) != arch.depth else ""
    return [
        flag
        for flag in (depth, f"--image-size {size}" if size not in (None, arch.image_size) else "")
        if flag
    ]


def _size_of(position: Tensor | None, arch: Architecture) -> int | None:
    """The image size that a position embedding [1, N, D] belongs to; None where it is not a square's."""
    if position is None or position.dim() != 3 or position.shape[-1] != arch.width:
        return None
    patches = position.shape[1] - (arch.prefix_tokens if arch.position_of_prefix else 0)
    grid = round(max(0, patches) ** 0.5)
    return grid * arch.patch_size if grid and grid**2 == patches else None


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
