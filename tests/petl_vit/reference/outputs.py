"""Methods that change the output of one module."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tests.petl_vit.reference.draft import Draft, reference
from tests.petl_vit.reference.linears import target_sites


class Affine(nn.Module):
    """y -> c(alpha) * y + d(alpha), channel-wise: c(alpha) = 1 + alpha (c - 1), d(alpha) = alpha d."""

    def __init__(self, base: nn.Module, scale: Tensor, shift: Tensor, alpha: float) -> None:
        super().__init__()
        self.base, self.scale, self.shift, self.alpha = base, scale, shift, alpha

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        shape = (-1, 1, 1) if y.ndim == 4 else (-1,)
        scale, shift = 1.0 + self.alpha * (self.scale - 1.0), self.alpha * self.shift
        return scale.reshape(shape) * y + shift.reshape(shape)


def ssf_sites(model: VisionTransformer) -> list[str]:
    """Patch embedding; LN1, qkv, W_o, LN2, fc1, fc2 of every block; the final LayerNorm."""
    parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    blocks = [f"blocks.{block}.{part}" for block in range(len(model.blocks)) for part in parts]
    return ["patch_embed.proj", *blocks, "fc_norm" if isinstance(model.norm, nn.Identity) else "norm"]


@reference
def ssf(draft: Draft) -> None:
    """y = c * x + d after every site."""
    for site in ssf_sites(draft.vit):
        draft.wrap(site, Affine, draft.take(f"{site}.scale"), draft.take(f"{site}.shift"), draft.alpha)


class Lora(nn.Module):
    """y = z W + b + alpha z A B."""

    def __init__(self, base: nn.Module, a: Tensor, b: Tensor, alpha: float) -> None:
        super().__init__()
        self.base, self.a, self.b, self.alpha = base, a, b, alpha

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.alpha * (x @ self.a @ self.b)


@reference
def lora(draft: Draft) -> None:
    """One pair A [in, r], B [r, out] at every target, no alpha / r factor."""
    for site in target_sites(draft.vit, draft.config):
        draft.wrap(site, Lora, draft.take(f"{site}.lora_a"), draft.take(f"{site}.lora_b"), draft.alpha)


class Rep(nn.Module):
    """R(z) = z + alpha s ((z A + a0) B + b0), B in groups: output half g sees bottleneck half g only."""

    def __init__(self, draft: Draft, name: str) -> None:
        super().__init__()
        self.a, self.a0 = draft.take(f"{name}.a"), draft.take(f"{name}.a0")
        self.b, self.b0 = draft.take(f"{name}.b"), draft.take(f"{name}.b0")
        self.factor = draft.factor

    def forward(self, z: Tensor) -> Tensor:
        bottleneck = z @ self.a + self.a0
        halves = [part @ group for part, group in zip(bottleneck.chunk(len(self.b), -1), self.b, strict=True)]
        return z + self.factor * (torch.cat(halves, -1) + self.b0)


@reference
def repadapter(draft: Draft) -> None:
    """X <- X + LS(Attn(R1(LN1 X))); X <- X + LS(MLP(R2(LN2 X)))."""
    for block in range(draft.depth):
        for norm, name in (("norm1", "attn_adapter"), ("norm2", "mlp_adapter")):
            rep = Rep(draft, f"blocks.{block}.{name}")
            draft.wrap(f"blocks.{block}.{norm}", nn.Sequential, rep)


class FactOut(nn.Module):
    """y + alpha s [z U S_1 V, z U S_2 V, ...]: the D x D units side by side (qkv, W_o, fc1)."""

    def __init__(self, base: nn.Module, u: Tensor, v: Tensor, cores: Tensor, factor: float) -> None:
        super().__init__()
        self.base, self.u, self.v, self.cores, self.factor = base, u, v, cores, factor

    def forward(self, z: Tensor) -> Tensor:
        y: Tensor = self.base(z)
        return y + self.factor * torch.cat([z @ self.u @ core @ self.v for core in self.cores], -1)


class FactIn(nn.Module):
    """y + alpha s (h_1 U S_1 V + h_2 U S_2 V + ...): h_i is the i-th D-vector of the hidden h (fc2)."""

    def __init__(self, base: nn.Module, u: Tensor, v: Tensor, cores: Tensor, factor: float) -> None:
        super().__init__()
        self.base, self.u, self.v, self.cores, self.factor = base, u, v, cores, factor

    def forward(self, h: Tensor) -> Tensor:
        y: Tensor = self.base(h)
        for part, core in zip(h.chunk(len(self.cores), -1), self.cores, strict=True):
            y = y + self.factor * (part @ self.u @ core @ self.v)
        return y


# Where the 12 units of a block sit: q, k, v; o; 4 chunks of fc1; 4 chunks of fc2.
FACT_UNITS = {
    "attn.qkv": slice(0, 3),
    "attn.proj": slice(3, 4),
    "mlp.fc1": slice(4, 8),
    "mlp.fc2": slice(8, 12),
}


def _fact(draft: Draft, cores: Tensor) -> None:
    """cores [M, 12, r, r]"""
    u, v = draft.take("u"), draft.take("v")
    for block in range(draft.depth):
        for site, units in FACT_UNITS.items():
            fact = FactIn if site == "mlp.fc2" else FactOut
            draft.wrap(f"blocks.{block}.{site}", fact, u, v, cores[block, units], draft.factor)


@reference
def fact_tt(draft: Draft) -> None:
    """Delta(z) = s (z U S) V with a free core S per unit."""
    _fact(draft, draft.take("s"))


@reference
def fact_tk(draft: Draft) -> None:
    """Delta(z) = s (z U S_j) V, S_j = sum_k C[:, :, k] P[k, j]; block l owns columns 12l..12l+11."""
    cores = torch.einsum("xyk,kj->jxy", draft.take("c"), draft.take("p"))
    _fact(draft, cores.reshape(draft.depth, 12, *cores.shape[1:]))
