"""What timm's class `Eva` has beyond a Vision Transformer: rotary positions, other names, further norms.

DINOv3, EUPE and the Perception Encoder are of it. Source: timm.models.eva.
"""

from typing import Any

import timm.layers as timm_layers
from timm.models import eva
from torch import nn

from petl_vit.facts import Layout, Rotary


def problem(model: Any) -> str | None:
    """What of an `Eva` the forward does not compute; None where it computes all of it."""
    if model.rope is not None and type(model.rope) is timm_layers.RotaryEmbeddingMixed:
        return "its rotary frequencies are trained, another for each block and head"
    if model.rope is not None and rotary(model.rope) is None:
        return "its rotary positions are not those of DINOv3, EVA-02 or PE"
    if model.rope is None and model.pos_embed is None:
        return "it has no positions"
    for block in model.blocks:
        if type(block) is not eva.EvaBlock:
            return "its norms follow attention and MLP"
        why = _problem_of(block, model.embed_dim, turned=model.rope is not None)
        if why is not None:
            return why
    return None


def _problem_of(block: Any, width: int, *, turned: bool) -> str | None:
    attention, mlp = block.attn, block.mlp
    if type(attention) not in (eva.EvaAttention, timm_layers.AttentionRope):
        return f"its attention is {type(attention).__name__}"
    if type(attention.q_norm) is not nn.Identity:
        return "its queries and keys have a norm"
    if type(attention.norm) is not nn.Identity:
        return "its attention has a norm before the last linear"
    if type(mlp.norm) is not nn.Identity:
        return "its MLP has a norm before the last linear"
    if attention.gate is not None or attention.proj.bias is None:
        return "its attention is not the plain one"
    if attention.head_dim * attention.num_heads != width or (turned and attention.head_dim % 4):
        return f"its heads have a width of {attention.head_dim}"
    if getattr(attention, "num_kv_groups", 1) != 1:
        return "several queries share a key"
    if (block.gamma_1 is None) != (block.gamma_2 is None):
        return "it scales the output of attention alone"
    return None


def rotary(rope: Any) -> Rotary | None:
    """The rotary positions of a module of timm; None where the forward does not compute them."""
    first = rope.grid_indexing == "xy"
    if type(rope) is timm_layers.RotaryEmbeddingDinoV3:
        if rope.temperature is None or rope.min_period is not None or rope.normalize_coords != "separate":
            return None
        return Rotary(
            kind="dinov3",
            temperature=rope.temperature,
            offset=rope.grid_offset,
            column_first=first,
            halves=rope.rotate_half,
        )
    if type(rope) is not timm_layers.RotaryEmbeddingCat or rope.grid_type != "index":
        return None
    if rope.in_pixels or len(set(rope.ref_feat_shape or (1,))) != 1:
        return None
    return Rotary(
        kind="axial",
        temperature=rope.temperature,
        offset=rope.grid_offset,
        column_first=first,
        halves=rope.rotate_half,
        reference=rope.ref_feat_shape[0] if rope.ref_feat_shape else None,
    )


def layouts(block: Any) -> tuple[Layout, ...]:
    """In which way the parameters of a block have other names than ours."""
    attention = block.attn
    biased = attention.q_bias is not None if hasattr(attention, "q_bias") else False
    if attention.qkv is None and type(attention) is eva.EvaAttention:
        biased = any(name == "q_proj.bias" for name, _ in attention.named_parameters())
    found: dict[Layout, bool] = {
        "gamma": block.gamma_1 is not None,
        "q_v_bias": biased,
        "q_k_v": attention.qkv is None,
        "gate_value": type(block.mlp) is timm_layers.SwiGLU,
    }
    return tuple(name for name, holds in found.items() if holds)
