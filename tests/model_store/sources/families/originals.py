"""Random checkpoints as the original repositories write them, from their modules' names."""

import torch
from torch import Tensor

D, HEADS, HIDDEN, BLOCKS, PATCH, GRID = 24, 3, 96, 2, 14, 2
Table = dict[str, Tensor]


def _random(shapes: dict[str, tuple[int, ...]]) -> Table:
    generator = torch.Generator().manual_seed(3)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _module(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _of_meta(mlp: str, prefix: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    shapes = {"cls_token": (1, 1, D), **prefix, **_module("patch_embed.proj", D, 3, PATCH, PATCH)}
    for number in range(BLOCKS):
        block = f"blocks.{number}"
        shapes |= _module(f"{block}.norm1", D) | _module(f"{block}.attn.qkv", 3 * D, D)
        shapes |= _module(f"{block}.attn.proj", D, D) | {f"{block}.ls1.gamma": (D,)}
        shapes |= _module(f"{block}.norm2", D) | {f"{block}.ls2.gamma": (D,)}
        if mlp == "packed":
            shapes |= _module(f"{block}.mlp.w12", 2 * HIDDEN, D) | _module(f"{block}.mlp.w3", D, HIDDEN)
        elif mlp == "split":
            shapes |= _module(f"{block}.mlp.w1", HIDDEN, D) | _module(f"{block}.mlp.w2", HIDDEN, D)
            shapes |= _module(f"{block}.mlp.w3", D, HIDDEN)
        else:
            shapes |= _module(f"{block}.mlp.fc1", HIDDEN, D) | _module(f"{block}.mlp.fc2", D, HIDDEN)
    return shapes | _module("norm", D)


def dinov2(*, gated: bool = False, registers: int = 0) -> Table:
    """Of dinov2.models.vision_transformer."""
    prefix = {"pos_embed": (1, 1 + GRID**2, D), "mask_token": (1, D)}
    if registers:
        prefix["register_tokens"] = (1, registers, D)
    return _random(_of_meta("packed" if gated else "plain", prefix))


def in_chunks(tensors: Table) -> Table:
    """The same with each block in a chunk, as FSDP's training has it."""
    return {
        name.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.1.1."): tensor
        for name, tensor in tensors.items()
    }


def dinov3(*, gated: bool = False) -> Table:
    """Of dinov3.models.vision_transformer."""
    tensors = _random(_of_meta("split" if gated else "plain", {"storage_tokens": (1, 4, D)}))
    pairs = D // HEADS // 4
    tensors["rope_embed.periods"] = (100.0 ** (torch.arange(pairs) / pairs)).bfloat16()
    tensors["mask_token"] = torch.ones(1, D)
    for number in range(BLOCKS):
        mask = torch.ones(3 * D)
        mask[D : 2 * D] = 0
        tensors[f"blocks.{number}.attn.qkv.bias_mask"] = mask
    return tensors


def clip(*, pool: bool = False, gammas: bool = False) -> Table:
    """Of clip.model, open_clip.transformer and core.vision_encoder.pe, with some of the text's tensors."""
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (D,),
        "visual.positional_embedding": (1 + GRID**2, D),
        "visual.conv1.weight": (D, 3, PATCH, PATCH),
        "visual.proj": (D, 8),
        **_module("visual.ln_pre", D),
        **_module("visual.ln_post", D),
        "positional_embedding": (7, 8),
        "token_embedding.weight": (9, 8),
        **_module("transformer.resblocks.0.ln_1", 8),
    }
    for number in range(BLOCKS):
        block = f"visual.transformer.resblocks.{number}"
        shapes |= {f"{block}.attn.in_proj_weight": (3 * D, D), f"{block}.attn.in_proj_bias": (3 * D,)}
        shapes |= _module(f"{block}.attn.out_proj", D, D) | _module(f"{block}.ln_1", D)
        shapes |= _module(f"{block}.mlp.c_fc", HIDDEN, D) | _module(f"{block}.mlp.c_proj", D, HIDDEN)
        shapes |= _module(f"{block}.ln_2", D)
        if gammas:
            shapes |= {f"{block}.ls_{number}.gamma": (D,) for number in (1, 2)}
    if pool:
        pooled = "visual.attn_pool"
        shapes |= {f"{pooled}.probe": (1, 1, D)}
        shapes |= {f"{pooled}.attn.in_proj_weight": (3 * D, D), f"{pooled}.attn.in_proj_bias": (3 * D,)}
        shapes |= _module(f"{pooled}.attn.out_proj", D, D) | _module(f"{pooled}.layernorm", D)
        shapes |= _module(f"{pooled}.mlp.c_fc", 4 * D, D) | _module(f"{pooled}.mlp.c_proj", D, 4 * D)
    return _random(shapes)
