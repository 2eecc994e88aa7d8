"""timm's `Eva` as a Vision Transformer of timm, which the references change: the same numbers, other names.

Queries, keys and values are one linear, gate and value are one, and attention turns the last tokens itself.
"""

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import GluMlp, Mlp, apply_rot_embed_cat
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from petl_vit.timm_names import canonical


class Turning(nn.Module):
    """timm's attention, whose queries and keys of the last tokens, the patches, are turned.

    Args:
        angles: [P, d or 2 d], timm's sines and cosines of the P patches.
    """

    def __init__(self, attention: Any, angles: Tensor, *, half: bool) -> None:
        super().__init__()
        self.qkv, self.proj, self.num_heads = attention.qkv, attention.proj, attention.num_heads
        self.q_norm, self.k_norm, self.norm = attention.q_norm, attention.k_norm, attention.norm
        self.register_buffer("angles", angles, persistent=False)
        self.half = half

    def turn(self, x: Tensor) -> Tensor:
        """[B, H, N, d] -> same."""
        angles = self.get_buffer("angles")
        first = x.shape[2] - len(angles)
        return torch.cat([x[:, :, :first], apply_rot_embed_cat(x[:, :, first:], angles, half=self.half)], 2)

    def forward(self, x: Tensor, attn_mask: None = None, is_causal: bool = False) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        projected: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return projected


class Unplaced(VisionTransformer):
    """A Vision Transformer that may have no learned positions."""

    def _pos_embed(self, x: Tensor) -> Tensor:
        prefix = [t.expand(len(x), -1, -1) for t in (self.cls_token, self.reg_token) if t is not None]
        if self.pos_embed is None:
            return torch.cat([*prefix, x], dim=1)
        placed: Tensor = super()._pos_embed(x)
        return placed


def plain(model: Eva) -> VisionTransformer:
    """The same as a Vision Transformer, in the model's dtype."""
    tensors, block = canonical(dict(model.named_parameters())), model.blocks[0]
    gated = not isinstance(block.mlp, Mlp)
    layer: type[nn.Module] = partial(GluMlp, gate_last=False) if gated else Mlp  # type: ignore[assignment]
    hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0]
    vit = Unplaced(
        img_size=model.patch_embed.img_size,
        patch_size=model.patch_embed.patch_size[0],
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=hidden / model.embed_dim,
        mlp_layer=layer,
        act_layer=nn.SiLU if gated else type(block.mlp.act),
        qkv_bias="blocks.0.attn.qkv.bias" in tensors,
        init_values=None if block.gamma_1 is None else 1.0,
        class_token=model.cls_token is not None,
        reg_tokens=0 if model.reg_token is None else model.reg_token.shape[1],
        no_embed_class=model.no_embed_class,
        pos_embed="none" if model.pos_embed is None else "learn",
        pre_norm=not isinstance(model.norm_pre, nn.Identity),
        norm_layer=partial(nn.LayerNorm, eps=block.norm1.eps),
        global_pool="" if model.attn_pool is not None else model.global_pool,
        fc_norm=not isinstance(model.fc_norm, nn.Identity),
        num_classes=0,
    )
    vit.attn_pool, vit.pool_include_prefix = copy.deepcopy(model.attn_pool), model.attn_pool is not None
    vit = vit.to(next(iter(tensors.values())).dtype)
    vit.load_state_dict(tensors, strict=True)
    if model.rope is not None:
        angles = model.rope.get_embed(shape=model.patch_embed.grid_size)
        for own in vit.blocks:
            own.attn = Turning(own.attn, angles, half=block.attn.rotate_half)
    return vit.eval().requires_grad_(False)
