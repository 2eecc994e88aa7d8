"""Methods that add tokens, or read beside the frozen model."""

from collections.abc import Mapping
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tests.petl_vit.reference.draft import Config, Draft, reference


def _turned(attn: Any, x: Tensor) -> Tensor:
    """Queries or keys [B, H, N, d], with those of the patches turned where there are rotary positions.

    Tokens that a method adds stand in front and have no place, as the class token has none.
    """
    turned: Tensor = attn.turn(x) if hasattr(attn, "turn") else x
    return turned


class WeightedAttention(nn.Module):
    """softmax(Q K^T / sqrt(d_h)) V W_o + b_o, each key's unnormalised weight multiplied first.

    w_ij = m_j exp(q_i k_j / sqrt(d_h)), out_i = sum_j w_ij v_j / sum_j w_ij, with m_j = alpha for the first
    `count` keys (prompts) and 1 for the others, for every query i, prompts included.
    """

    def __init__(self, attn: nn.Module, count: int, alpha: float) -> None:
        super().__init__()
        self.attn, self.count, self.alpha = attn, count, alpha

    def forward(self, x: Tensor, attn_mask: None = None, is_causal: bool = False) -> Tensor:
        attn: Any = self.attn
        q, k, v = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = _turned(attn, attn.q_norm(q)), _turned(attn, attn.k_norm(k))
        logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        multiple = torch.ones_like(logits[0, 0, 0])
        multiple[: self.count] = self.alpha
        weights = multiple * torch.exp(logits - logits.amax(-1, keepdim=True))
        out = (weights / weights.sum(-1, keepdim=True)) @ v
        projected: Tensor = attn.proj(attn.norm(out.transpose(1, 2).flatten(2)))
        return projected


def _weigh_prompts(draft: Draft, block: int, count: int) -> None:
    """timm's own attention at alpha 1, the explicit softmax elsewhere; raises ValueError below 0."""
    if draft.alpha < 0:
        raise ValueError("an attention weight cannot be multiplied by a negative alpha")
    if draft.alpha != 1:
        draft.wrap(f"blocks.{block}.attn", WeightedAttention, count, draft.alpha)


class Prepend(nn.Module):
    """[P; X]: the prompts [n, D] in front of the tokens [B, N, D]."""

    def __init__(self, prompts: Tensor) -> None:
        super().__init__()
        self.prompts = prompts

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.prompts.expand(len(x), -1, -1), x], 1)


class Drop(nn.Module):
    """Cut off the first n tokens."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.count :]


def _prompted(inner: nn.Module, prompts: Tensor) -> nn.Module:
    return nn.Sequential(Prepend(prompts), inner, Drop(len(prompts)))


@reference
def vpt_deep(draft: Draft) -> None:
    """Before block l put P_l in front, after it drop n outputs; a block without prompts is left alone."""
    for block in range(draft.depth):
        if f"blocks.{block}.prompts" in draft.left:
            prompts = draft.take(f"blocks.{block}.prompts")
            _weigh_prompts(draft, block, len(prompts))
            draft.wrap(f"blocks.{block}", _prompted, prompts)


@reference
def vpt_shallow(draft: Draft) -> None:
    """Input of block 0 (after any pre-norm) = [P; X]; the n tokens pass all blocks and are then cut off."""
    prompts = draft.take("prompts")
    for block in range(draft.depth):
        _weigh_prompts(draft, block, len(prompts))
    draft.wrap("blocks", _prompted, prompts)


class QueryAttention(nn.Module):
    """softmax(Q K^T / sqrt(d_h)) V W_o + b_o, K and V without the rows of the first `count` tokens.

    All tokens ask, and nobody sees the first ones: not the other tokens, not each other, not themselves.
    """

    def __init__(self, attn: nn.Module, count: int) -> None:
        super().__init__()
        self.attn, self.count = attn, count

    def forward(self, x: Tensor, attn_mask: None = None, is_causal: bool = False) -> Tensor:
        attn: Any = self.attn
        q, k, v = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = _turned(attn, attn.q_norm(q)), _turned(attn, attn.k_norm(k)), v
        k, v = k[:, :, self.count :], v[:, :, self.count :]
        logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        weights = torch.exp(logits - logits.amax(-1, keepdim=True))
        out = (weights / weights.sum(-1, keepdim=True)) @ v
        projected: Tensor = attn.proj(attn.norm(out.transpose(1, 2).flatten(2)))
        return projected


class Queried(nn.Module):
    """(1 - alpha) f + alpha m, m = mix[0] f/|f| + sum over l, i of mix[1 + l n + i] Q_l[i] / |Q_l[i]|.

    [Q_l; X] = block l of [P_l; X], f the pooled feature; Q_l passes no later block and no final LayerNorm.
    """

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self.vit, self.alpha, self.mix = draft.vit, draft.alpha, draft.take("mix")
        self.prompts = [draft.take(f"blocks.{block}.prompts") for block in range(draft.depth)]
        for block, prompts in enumerate(self.prompts):
            draft.wrap(f"blocks.{block}.attn", QueryAttention, len(prompts))

    def forward(self, images: Tensor) -> Tensor:
        vit: Any = self.vit
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
        answers = []
        for block, prompts in zip(vit.blocks, self.prompts, strict=True):
            out = block(torch.cat([prompts.expand(len(x), -1, -1), x], 1))
            answers.append(out[:, : len(prompts)])
            x = out[:, len(prompts) :]
        feature: Tensor = vit.forward_head(vit.norm(x), pre_logits=True)
        parts = torch.cat([feature[:, None], *answers], 1)
        mixed: Tensor = self.mix @ (parts / parts.norm(dim=-1, keepdim=True))
        return (1.0 - self.alpha) * feature + self.alpha * mixed


def vqt(model: VisionTransformer, tensors: Mapping[str, Tensor], config: Config, alpha: float) -> nn.Module:
    """Queries P_l read X_l in every block and leave X as it is; the feature is mixed with their answers."""
    draft = Draft(model, tensors, config, alpha)
    queried = Queried(draft)
    draft.finish()
    return queried.eval()
