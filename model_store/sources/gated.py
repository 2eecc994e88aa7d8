"""timm's configs of ViTs with a gated MLP do not say that it is gated: their tensors do.

The layer of the MLP is an argument of timm.create_model that JSON cannot hold, so that model cards have it
(UNI 2, Virchow). timm's DINOv2 giant has that layer, and options make it any of them.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from model_store.sources.families.described import Wanted
from model_store.sources.said import Option, Said
from petl_vit import plain_vits
from petl_vit.errors import Unsupported

_FIRST, _SECOND = "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight"
_NAMED = r"vit_giant_patch14_(reg4_)?dinov2"


def is_gated(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the first linear of the MLP gives twice what the second takes."""
    first, second = tensors.get(_FIRST), tensors.get(_SECOND)
    if first is None or second is None or first.dim() != 2 or second.dim() != 2:
        return False
    return len(first) == 2 * second.shape[1]


def told_apart(said: Said, tensors: Mapping[str, Tensor]) -> Said:
    """What a folder says, with the architecture that has a gated MLP where its tensors are of one."""
    name = (said.architecture or "").partition(".")[0]
    facts = plain_vits.named(name)
    kernel = tensors.get("patch_embed.proj.weight")
    if facts is None or facts.activation == "swiglu" or facts.rotary is not None or kernel is None:
        return said
    heads = said.options.get("num_heads", facts.heads if len(kernel) == facts.width else None)
    if not is_gated(tensors) or not isinstance(heads, int) or kernel.dim() != 4:
        return said
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    wanted = Wanted(
        width=len(kernel),
        depth=len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
        heads=heads,
        hidden=tensors[_SECOND].shape[1],
        patch_size=kernel.shape[-1],
        activation="swiglu",
        qkv_bias="blocks.0.attn.qkv.bias" in tensors,
        register_tokens=registers,
        pool="avg" if said.options.get("global_pool") == "avg" else "token",
    )
    try:
        architecture, found = wanted.nearest(_NAMED, said.image_size or 0)
    except Unsupported:
        return said
    options: dict[str, Option] = dict(found)
    if registers and said.options.get("no_embed_class") is not True:
        options["no_embed_class"] = False  # positions of the class and register tokens, too
    note = f"its MLP is gated, which its config does not say: it is read as {architecture} with options"
    return replace(said, architecture=architecture, options=options, notes=(*said.notes, note))
