"""Methods that change a linear of a block: its weight, or what it takes and gives, number by number.

W is torch's weight [out, in], so that a linear is y = W x + b. Targets are `qkv`, `proj`, `fc1` and `fc2`.
"""

from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from tests.petl_vit.reference.draft import Config, Draft, reference

PLACES = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


def target_sites(model: VisionTransformer, config: Config) -> list[str]:
    """The linears that are changed, in every block: qkv, where the config names no others."""
    targets = config.get("targets", ("qkv",))
    return [f"blocks.{block}.{PLACES[t]}" for block in range(len(model.blocks)) for t in targets]


class Dora(nn.Module):
    """W' = m (W + s B A) / ||W + s B A||, one norm and one m for each output (arXiv 2402.09353, eq. 5).

    The norm is a constant to the gradient (section 4.3). At alpha: (1 - alpha) W + alpha W'. b stays.
    """

    def __init__(self, base: nn.Linear, draft: Draft, site: str) -> None:
        super().__init__()
        self.base, self.alpha, self.scale = base, draft.alpha, float(draft.config["scale"])
        self.a, self.b = draft.take(f"{site}.lora_a"), draft.take(f"{site}.lora_b")
        self.magnitude = draft.take(f"{site}.magnitude")

    def forward(self, x: Tensor) -> Tensor:
        direction = self.base.weight + self.scale * (self.a @ self.b).T
        norm = direction.square().sum(1, keepdim=True).sqrt().detach()
        tuned = self.magnitude[:, None] * direction / norm
        return F.linear(x, (1.0 - self.alpha) * self.base.weight + self.alpha * tuned, self.base.bias)


@reference
def dora(draft: Draft) -> None:
    """A [in, r], B [r, out] and m [out] at every target."""
    for site in target_sites(draft.vit, draft.config):
        draft.wrap(site, Dora, draft, site)


def vera_matrix(seed: int, which: int, rows: int, columns: int) -> Tensor:
    """[rows, columns], uniform on +-sqrt(6 / rows) (Kaiming), float32: the top 53 of PCG64's 64 bits."""
    bits = np.random.PCG64([seed, which, rows, columns]).random_raw(rows * columns)
    shares = (bits >> np.uint64(11)).astype(np.float64) / 2.0**53
    bound = np.sqrt(6.0 / rows)
    return torch.from_numpy((bound * (2.0 * shares - 1.0)).astype(np.float32).reshape(rows, columns))


class Vera(nn.Module):
    """y = W x + b_0 + alpha b * (B (d * (A x))): A and B random and shared (arXiv 2310.11454, eq. 2)."""

    def __init__(self, base: nn.Linear, draft: Draft, site: str) -> None:
        super().__init__()
        self.base, self.alpha = base, draft.alpha
        self.d, self.b = draft.take(f"{site}.vera_d"), draft.take(f"{site}.vera_b")
        seed, rank = int(draft.config.get("projection_seed", 0)), len(self.d)
        self.shared_a = vera_matrix(seed, 0, base.in_features, rank).to(self.d)
        self.shared_b = vera_matrix(seed, 1, rank, base.out_features).to(self.d)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.alpha * (((x @ self.shared_a) * self.d) @ self.shared_b) * self.b


@reference
def vera(draft: Draft) -> None:
    """d [r] and b [out] at every target."""
    for site in target_sites(draft.vit, draft.config):
        draft.wrap(site, Vera, draft, site)


class Times(nn.Module):
    """x -> (1 + alpha (l - 1)) * x."""

    def __init__(self, scale: Tensor, alpha: float) -> None:
        super().__init__()
        self.scale, self.alpha = scale, alpha

    def forward(self, x: Tensor) -> Tensor:
        return (1.0 + self.alpha * (self.scale - 1.0)) * x


def ia3_targets(config: Config) -> tuple[str, ...]:
    """What is scaled: out of q, k, v, proj, fc1, fc2 and hidden, which is the MLP's vector before fc2."""
    targets = tuple(config.get("targets", ("k", "v", "hidden")))
    if {"fc2", "hidden"} <= set(targets):
        raise ValueError("fc2 is scaled either before it or behind it: the paper does not say how both go")
    return targets


@reference
def ia3(draft: Draft) -> None:
    """softmax(Q (l_k * K)^T / sqrt(d)) (l_v * V); fc2(l_ff * h), h of the activation (arXiv 2205.05638)."""
    targets = ia3_targets(draft.config)
    for block in [f"blocks.{block}" for block in range(draft.depth)]:
        if set("qkv") & set(targets):
            draft.wrap(f"{block}.attn.qkv", _behind, _thirds(draft, f"{block}.attn", targets), draft.alpha)
        for target in ("proj", "fc1", "fc2"):
            if target in targets:
                site = f"{block}.{PLACES[target]}"
                draft.wrap(site, _behind, draft.take(f"{site}.scale"), draft.alpha)
        if "hidden" in targets:
            draft.wrap(f"{block}.mlp.fc2", _before, draft.take(f"{block}.mlp.hidden.scale"), draft.alpha)


def _thirds(draft: Draft, attn: str, targets: tuple[str, ...]) -> Tensor:
    """[3D]: the scales of queries, keys and values; 1 where they have none."""
    like: Any = draft.vit.cls_token if draft.vit.cls_token is not None else draft.vit.pos_embed
    none = torch.ones_like(like[0, 0])
    return torch.cat([draft.take(f"{attn}.{part}.scale") if part in targets else none for part in "qkv"])


def _behind(base: nn.Module, scale: Tensor, alpha: float) -> nn.Module:
    return nn.Sequential(base, Times(scale, alpha))


def _before(base: nn.Module, scale: Tensor, alpha: float) -> nn.Module:
    return nn.Sequential(Times(scale, alpha), base)
