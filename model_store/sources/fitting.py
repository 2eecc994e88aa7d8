"""Whether foreign tensors are exactly those of an architecture, and what to say where they are not."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from petl_vit.architecture import Architecture, describe
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import InvalidInput, Unsupported
from petl_vit.timm_names import canonical

_SHOWN = 8
_KERNEL = "patch_embed.proj.weight"
_FOREIGN = {
    "lora_A": "these are LoRA matrices: `corolla adapters import --format peft` reads them",
    "lora_B": "these are LoRA matrices: `corolla adapters import --format peft` reads them",
    "base_layer": "merge the adapter first: model.merge_and_unload() of PEFT",
    "resblocks": "these are the names of OpenAI's CLIP and open_clip: import timm's version of it",
    "vision_model": "these are the names of transformers' CLIP or SigLIP: import timm's version of it",
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
    tensors = canonical(tensors)
    shapes = arch.shapes
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
    flags = _flags(tensors, arch)
    if flags:
        return f"use {' '.join(flags)}, as its tensors say"
    return (
        "check --architecture, --image-size and --option; the names of timm, and of transformers' ViT and "
        "DINOv2, are read"
    )


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
