"""Every PETL method once more, from its equations alone, as wrapped copies of timm's own Vision Transformer.

Knows timm's modules and the tensor names of the methods; knows nothing of `petl_vit`, so that the two can
only agree by both being right. Slow and literal on purpose: prompts are concatenated, adapters stand where
the equation puts them, nothing is folded. The given tensors are used as they are, so gradients reach them.

Shapes: B images, N tokens, D width, M blocks, r rank or bottleneck, n prompts. Row vectors: x W + b.
alpha is the WiSE factor: 1 = as trained, 0 = the frozen model. LS is LayerScale, where there is one.
"""

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

Config = Mapping[str, Any]
Reference = Callable[[VisionTransformer, Mapping[str, Tensor], Config, float], nn.Module]


class Feature(nn.Module):
    """images [B, 3, S, S] -> timm's pooled feature [B, D]."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: Tensor) -> Tensor:
        feature: Tensor = self.vit.forward_head(self.vit.forward_features(images), pre_logits=True)
        return feature


class Moved(nn.Module):
    """The feature with some of timm's parameters at (1 - alpha) w0 + alpha w1."""

    def __init__(self, vit: VisionTransformer, tuned: Mapping[str, Tensor], alpha: float) -> None:
        super().__init__()
        self.feature = Feature(vit)
        self.tuned = {f"vit.{name}": tensor for name, tensor in tuned.items()}
        self.alpha = alpha

    def forward(self, images: Tensor) -> Tensor:
        frozen = self.feature.state_dict()
        weights = {n: (1.0 - self.alpha) * frozen[n] + self.alpha * w for n, w in self.tuned.items()}
        feature: Tensor = functional_call(self.feature, weights, images)
        return feature


class Draft:
    """A private copy of the frozen model under change, and the tensors that no change has used yet."""

    def __init__(
        self, model: VisionTransformer, tensors: Mapping[str, Tensor], config: Config, alpha: float
    ) -> None:
        self.vit = copy.deepcopy(model).eval().requires_grad_(False)
        self.alpha = alpha
        self.config = config
        self._left = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
        self._tuned: dict[str, Tensor] = {}

    @property
    def depth(self) -> int:
        return len(self.vit.blocks)

    @property
    def factor(self) -> float:
        """alpha s, for methods with a scale."""
        return self.alpha * float(self.config["scale"])

    @property
    def left(self) -> set[str]:
        return set(self._left)

    def take(self, name: str) -> Tensor:
        like = next(self.vit.parameters())
        return self._left.pop(name).to(device=like.device, dtype=like.dtype)

    def wrap(self, site: str, wrapper: Callable[..., nn.Module], *rest: Any) -> None:
        """Put wrapper(module, *rest) in the place of the module called `site`."""
        self.vit.set_submodule(site, wrapper(self.vit.get_submodule(site), *rest))

    def move(self, names: set[str]) -> None:
        """Let these parameters of timm go to the tensors of their names; ValueError on another shape."""
        for name in names:
            tuned, frozen = self.take(name), self.vit.get_parameter(name)
            if tuned.shape != frozen.shape:
                raise ValueError(f"{name} has shape {tuple(frozen.shape)}, not {tuple(tuned.shape)}")
            self._tuned[name] = tuned

    def finish(self) -> nn.Module:
        """Raise ValueError where a tensor has found no use, since a comparison would then prove nothing."""
        if self._left:
            raise ValueError(f"the method has no such tensors: {sorted(self._left)}")
        return Moved(self.vit, self._tuned, self.alpha).eval()


def _reference(change: Callable[[Draft], None]) -> Reference:
    """The reference that makes this change to a copy of the model."""

    @functools.wraps(change)
    def build(
        model: VisionTransformer, tensors: Mapping[str, Tensor], config: Config, alpha: float
    ) -> nn.Module:
        draft = Draft(model, tensors, config, alpha)
        change(draft)
        return draft.finish()

    return build


# methods that move timm's own parameters


def parameter_names(model: VisionTransformer) -> set[str]:
    """Every parameter but the head's."""
    return {name for name, _ in model.named_parameters() if not name.startswith("head.")}


def bias_names(model: VisionTransformer) -> set[str]:
    """Biases of patch embedding, qkv, W_o, fc1, fc2 and of every LayerNorm, where the model has them."""
    return {name for name in parameter_names(model) if name.endswith(".bias")}


def norm_names(model: VisionTransformer) -> set[str]:
    """Weight and bias of every LayerNorm."""
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    return {f"{name}.{kind}" for name in norms for kind in ("weight", "bias")}


@_reference
def linear(draft: Draft) -> None:
    """Only the head is trained: the feature is the frozen one."""


@_reference
def bitfit(draft: Draft) -> None:
    """b(alpha) = (1 - alpha) b0 + alpha b1 for all biases."""
    draft.move(bias_names(draft.vit))


@_reference
def layernorm(draft: Draft) -> None:
    """(w, b)(alpha) = (1 - alpha) (w, b)0 + alpha (w, b)1 for all LayerNorms."""
    draft.move(norm_names(draft.vit))


@_reference
def full(draft: Draft) -> None:
    """theta(alpha) = (1 - alpha) theta0 + alpha theta1 over all parameters."""
    draft.move(parameter_names(draft.vit))


@_reference
def selective(draft: Draft) -> None:
    """theta(alpha) = (1 - alpha) theta0 + alpha theta1 over the parameters that are given."""
    draft.move(draft.left)


class Gained(nn.Module):
    """LayerScale's place after a linear (W, b0): (1 - alpha) LS(x W + b0) + alpha g * LS(x W + b1)."""

    def __init__(
        self, scale: nn.Module, last: nn.Linear, gain: Tensor, bias: Tensor | None, alpha: float
    ) -> None:
        super().__init__()
        self.scale, self.last, self.gain, self.bias, self.alpha = scale, last, gain, bias, alpha

    def forward(self, x: Tensor) -> Tensor:
        frozen: Tensor = self.scale(self.last(x))
        tuned: Tensor = self.scale(F.linear(x, self.last.weight, self.bias))
        return (1.0 - self.alpha) * frozen + self.alpha * self.gain * tuned


@_reference
def difffit(draft: Draft) -> None:
    """X <- X + g1 * LS(Attn(LN1 X)); X <- X + g2 * LS(MLP(LN2 X)); all biases and LayerNorms tuned.

    At alpha the folded weights are interpolated: W_o from W_o to W_o diag(g1), b_o from b0 to g1 * b1.
    """
    moved = bias_names(draft.vit) | norm_names(draft.vit)
    for block in [f"blocks.{block}" for block in range(draft.depth)]:
        _gain(draft, f"{block}.attn.proj", f"{block}.ls1", f"{block}.gain1")
        _gain(draft, f"{block}.mlp.fc2", f"{block}.ls2", f"{block}.gain2")
        moved -= {f"{block}.attn.proj.bias", f"{block}.mlp.fc2.bias"}
    draft.move(moved)


def _gain(draft: Draft, last: str, scale: str, gain: str) -> None:
    """Move the sublayer's last linear behind the sublayer, where its gain and LayerScale are."""
    layer = draft.vit.get_submodule(last)
    bias = None if layer.bias is None else draft.take(f"{last}.bias")
    draft.vit.set_submodule(last, nn.Identity())
    draft.wrap(scale, Gained, layer, draft.take(gain), bias, draft.alpha)


# methods that change the output of one module


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


@_reference
def ssf(draft: Draft) -> None:
    """y = c * x + d after every site."""
    for site in ssf_sites(draft.vit):
        draft.wrap(site, Affine, draft.take(f"{site}.scale"), draft.take(f"{site}.shift"), draft.alpha)


class Lora(nn.Module):
    """[Q K V] = Z W_qkv + b_qkv + alpha Z A B."""

    def __init__(self, base: nn.Module, a: Tensor, b: Tensor, alpha: float) -> None:
        super().__init__()
        self.base, self.a, self.b, self.alpha = base, a, b, alpha

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.alpha * (x @ self.a @ self.b)


@_reference
def lora(draft: Draft) -> None:
    """One pair A [D, r], B [r, 3D] per block on the fused qkv, no alpha / r factor."""
    for block in range(draft.depth):
        site = f"blocks.{block}.attn.qkv"
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


@_reference
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


@_reference
def fact_tt(draft: Draft) -> None:
    """Delta(z) = s (z U S) V with a free core S per unit."""
    _fact(draft, draft.take("s"))


@_reference
def fact_tk(draft: Draft) -> None:
    """Delta(z) = s (z U S_j) V, S_j = sum_k C[:, :, k] P[k, j]; block l owns columns 12l..12l+11."""
    cores = torch.einsum("xyk,kj->jxy", draft.take("c"), draft.take("p"))
    _fact(draft, cores.reshape(draft.depth, 12, *cores.shape[1:]))


# methods that add a branch to a block


class Adapter(nn.Module):
    """alpha A(z), A(z) = s (ReLU(z W_d + b_d) W_u + b_u)."""

    def __init__(self, draft: Draft, name: str) -> None:
        super().__init__()
        self.down, self.b_down = draft.take(f"{name}.down.weight"), draft.take(f"{name}.down.bias")
        self.up, self.b_up = draft.take(f"{name}.up.weight"), draft.take(f"{name}.up.bias")
        self.factor = draft.factor

    def forward(self, z: Tensor) -> Tensor:
        return self.factor * (torch.relu(z @ self.down + self.b_down) @ self.up + self.b_up)


class Conv(nn.Module):
    """alpha s K(z), K(z) = q(conv3x3(q(z W_d + b_d))) W_u + b_u, q(t) = t sigmoid(1.702 t).

    The patch tokens form one zero-padded image; CLS and registers pass the same conv as images of one pixel.
    """

    def __init__(self, draft: Draft, name: str) -> None:
        super().__init__()
        self.down, self.b_down = draft.take(f"{name}.down.weight"), draft.take(f"{name}.down.bias")
        self.conv, self.b_conv = draft.take(f"{name}.conv.weight"), draft.take(f"{name}.conv.bias")
        self.up, self.b_up = draft.take(f"{name}.up.weight"), draft.take(f"{name}.up.bias")
        self.grid, self.prefix = draft.vit.patch_embed.grid_size, draft.vit.num_prefix_tokens
        self.factor = draft.factor

    def forward(self, z: Tensor) -> Tensor:
        t = _quick_gelu(z @ self.down + self.b_down).transpose(1, 2)
        singles = [self._convolve(t[:, :, i, None, None]).flatten(2) for i in range(self.prefix)]
        patches = self._convolve(t[:, :, self.prefix :].reshape(*t.shape[:2], *self.grid)).flatten(2)
        t = _quick_gelu(torch.cat([*singles, patches], 2).transpose(1, 2))
        return self.factor * (t @ self.up + self.b_up)

    def _convolve(self, image: Tensor) -> Tensor:
        return F.conv2d(image, self.conv, self.b_conv, padding=1)


def _quick_gelu(t: Tensor) -> Tensor:
    return t * torch.sigmoid(1.702 * t)


class BranchedBlock(nn.Module):
    """timm's block with two open places: what each sublayer adds besides its own output.

    X <- X + u + attn_branch(X, Z, u) with Z = LN1 X, u = LS(Attn(Z)); the same for the MLP.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        block: Any = self.block
        z = block.norm1(x)
        u = block.ls1(block.attn(z))
        x = x + u + self.attn_branch(x, z, u)
        z = block.norm2(x)
        u = block.ls2(block.mlp(z))
        y: Tensor = x + u + self.mlp_branch(x, z, u)
        return y

    def attn_branch(self, x: Tensor, z: Tensor, u: Tensor) -> Tensor:
        return torch.zeros_like(u)

    def mlp_branch(self, x: Tensor, z: Tensor, u: Tensor) -> Tensor:
        return torch.zeros_like(u)


class ScaledBlock(BranchedBlock):
    """A block whose branches beside a sublayer go through its LayerScale, where the config says so."""

    def __init__(self, block: nn.Module, config: Config) -> None:
        super().__init__(block)
        self.layer_scale = bool(config.get("layer_scale", False))

    def scaled(self, scale: str, out: Tensor) -> Tensor:
        through: Tensor = self.block.get_submodule(scale)(out) if self.layer_scale else out
        return through


class AdaptFormerBlock(ScaledBlock):
    """X <- X + LS(MLP(LN2 X)) + alpha A(X); with layer_scale alpha LS(A(X))."""

    def __init__(self, block: nn.Module, draft: Draft, name: str) -> None:
        super().__init__(block, draft.config)
        self.adapter = Adapter(draft, f"{name}.adapter")

    def mlp_branch(self, x: Tensor, z: Tensor, u: Tensor) -> Tensor:
        return self.scaled("ls2", self.adapter(x))


class PfeifferBlock(BranchedBlock):
    """u = LS(MLP(LN2 X)); X <- X + u + alpha A(u)."""

    def __init__(self, block: nn.Module, draft: Draft, name: str) -> None:
        super().__init__(block)
        self.adapter = Adapter(draft, f"{name}.adapter")

    def mlp_branch(self, x: Tensor, z: Tensor, u: Tensor) -> Tensor:
        out: Tensor = self.adapter(u)
        return out


class HoulsbyBlock(BranchedBlock):
    """u = LS(Attn(LN1 X)); X <- X + u + alpha A1(u); u = LS(MLP(LN2 X)); X <- X + u + alpha A2(u)."""

    def __init__(self, block: nn.Module, draft: Draft, name: str) -> None:
        super().__init__(block)
        self.attn_adapter = Adapter(draft, f"{name}.attn_adapter")
        self.mlp_adapter = Adapter(draft, f"{name}.mlp_adapter")

    def attn_branch(self, x: Tensor, z: Tensor, u: Tensor) -> Tensor:
        out: Tensor = self.attn_adapter(u)
        return out

    def mlp_branch(self, x: Tensor, z: Tensor, u: Tensor) -> Tensor:
        out: Tensor = self.mlp_adapter(u)
        return out


class ConvpassBlock(ScaledBlock):
    """X <- X + LS(Attn(Z)) + alpha s K1(Z), Z = LN1 X; X <- X + LS(MLP(Z)) + alpha s K2(Z), Z = LN2 X.

    With layer_scale the branches are LS(alpha s K(Z)).
    """

    def __init__(self, block: nn.Module, draft: Draft, name: str) -> None:
        super().__init__(block, draft.config)
        self.attn_conv = Conv(draft, f"{name}.attn_conv")
        self.mlp_conv = Conv(draft, f"{name}.mlp_conv")

    def attn_branch(self, x: Tensor, z: Tensor, u: Tensor) -> Tensor:
        return self.scaled("ls1", self.attn_conv(z))

    def mlp_branch(self, x: Tensor, z: Tensor, u: Tensor) -> Tensor:
        return self.scaled("ls2", self.mlp_conv(z))


def _branch(draft: Draft, kind: Callable[[nn.Module, Draft, str], BranchedBlock]) -> None:
    """Put a block of this kind around every block of timm."""
    for name in [f"blocks.{block}" for block in range(draft.depth)]:
        draft.wrap(name, kind, draft, name)


@_reference
def adaptformer(draft: Draft) -> None:
    """An adapter parallel to the MLP, on the residual stream before LN2."""
    _branch(draft, AdaptFormerBlock)


@_reference
def pfeiffer(draft: Draft) -> None:
    """An adapter with inner skip on the MLP's output."""
    _branch(draft, PfeifferBlock)


@_reference
def houlsby(draft: Draft) -> None:
    """An adapter with inner skip on the output of both sublayers."""
    _branch(draft, HoulsbyBlock)


@_reference
def convpass(draft: Draft) -> None:
    """A convolutional bottleneck parallel to both sublayers, on the LayerNorm's output."""
    _branch(draft, ConvpassBlock)


# methods that add tokens


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
        logits = attn.q_norm(q) @ attn.k_norm(k).transpose(-2, -1) / q.shape[-1] ** 0.5
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


@_reference
def vpt_deep(draft: Draft) -> None:
    """Before block l put P_l in front, after it drop n outputs; a block without prompts is left alone."""
    for block in range(draft.depth):
        if f"blocks.{block}.prompts" in draft.left:
            prompts = draft.take(f"blocks.{block}.prompts")
            _weigh_prompts(draft, block, len(prompts))
            draft.wrap(f"blocks.{block}", _prompted, prompts)


@_reference
def vpt_shallow(draft: Draft) -> None:
    """Input of block 0 (after any pre-norm) = [P; X]; the n tokens pass all blocks and are then cut off."""
    prompts = draft.take("prompts")
    for block in range(draft.depth):
        _weigh_prompts(draft, block, len(prompts))
    draft.wrap("blocks", _prompted, prompts)


# methods that read beside the frozen model


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
        q, k, v = attn.q_norm(q), attn.k_norm(k[:, :, self.count :]), v[:, :, self.count :]
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


REFERENCES: dict[str, Reference] = {
    "linear": linear,
    "bitfit": bitfit,
    "layernorm": layernorm,
    "difffit": difffit,
    "ssf": ssf,
    "lora": lora,
    "fact_tt": fact_tt,
    "fact_tk": fact_tk,
    "repadapter": repadapter,
    "adaptformer": adaptformer,
    "pfeiffer": pfeiffer,
    "houlsby": houlsby,
    "convpass": convpass,
    "vpt_shallow": vpt_shallow,
    "vpt_deep": vpt_deep,
    "vqt": vqt,
    "selective": selective,
    "full": full,
}


# random tensors


class Spec(NamedTuple):
    """A tensor to draw: centre + std * normal noise, in the given shape."""

    shape: tuple[int, ...]
    std: float
    centre: Tensor | float = 0.0


Plan = dict[str, Spec]


def random_tensors(
    method: str,
    model: VisionTransformer,
    generator: Generator,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> dict[str, Tensor]:
    """Non-zero tensors of the method's names and shapes, large enough to be seen in the feature.

    config: rank (default 4), prompts (n, default 3), names (selective; default: all of the last block).
    Other keys are ignored, so that a method's whole config can be passed.
    """
    plan = tensor_plan(method, model, config)
    return {name: _draw(spec, generator).to(dtype) for name, spec in plan.items()}


def _draw(spec: Spec, generator: Generator) -> Tensor:
    """On the CPU in float64, so that the dtype asked for changes the rounding and nothing else."""
    centre = torch.as_tensor(spec.centre).detach().to("cpu", torch.float64)
    return centre + spec.std * torch.randn(spec.shape, generator=generator, dtype=torch.float64)


def tensor_plan(method: str, model: VisionTransformer, config: Config) -> Plan:
    """What the method owns on this model: names, shapes and how to draw them."""
    if method in ("linear", "bitfit", "layernorm", "selective", "full"):
        return _moved_plan(model, _moved_names(method, model, config))
    if method in ("fact_tt", "fact_tk"):
        return _fact_plan(method, model, config)
    if method == "vpt_shallow":
        return {"prompts": Spec((config.get("prompts", 3), model.embed_dim), 0.5)}
    if method == "ssf":
        return _ssf_plan(model)
    plan = {
        f"blocks.{block}.{name}": spec
        for block in range(len(model.blocks))
        for name, spec in _block_plan(method, model.embed_dim, config).items()
    }
    return plan | _shared_plan(method, model, config)


def _shared_plan(method: str, model: VisionTransformer, config: Config) -> Plan:
    """What a method with a plan per block owns besides."""
    if method == "difffit":
        return _moved_plan(model, bias_names(model) | norm_names(model))
    if method == "vqt":
        return {"mix": Spec((1 + len(model.blocks) * config.get("prompts", 3),), 0.5)}
    return {}


def _moved_names(method: str, model: VisionTransformer, config: Config) -> set[str]:
    everything = parameter_names(model)
    last = {name for name in everything if name.startswith(f"blocks.{len(model.blocks) - 1}.")}
    chosen: dict[str, set[str]] = {
        "linear": set(),
        "bitfit": bias_names(model),
        "layernorm": norm_names(model),
        "selective": set(config.get("names", last)),
        "full": everything,
    }
    return chosen[method]


def _moved_plan(model: VisionTransformer, names: set[str]) -> Plan:
    parameters = dict(model.named_parameters())
    return {name: Spec(tuple(parameters[name].shape), 0.05, parameters[name]) for name in sorted(names)}


def _ssf_plan(model: VisionTransformer) -> Plan:
    plan: Plan = {}
    for site in ssf_sites(model):
        weight = model.get_submodule(site).weight
        assert isinstance(weight, Tensor)
        plan |= {f"{site}.scale": Spec((len(weight),), 0.1, 1.0), f"{site}.shift": Spec((len(weight),), 0.1)}
    return plan


def _fact_plan(method: str, model: VisionTransformer, config: Config) -> Plan:
    d, r, depth = model.embed_dim, config.get("rank", 4), len(model.blocks)
    ends = {"u": Spec((d, r), d**-0.5), "v": Spec((r, d), 0.3)}
    if method == "fact_tt":
        return ends | {"s": Spec((depth, 12, r, r), r**-0.5)}
    return ends | {"c": Spec((r, r, r), r**-0.5), "p": Spec((r, 12 * depth), r**-0.5)}


def _block_plan(method: str, d: int, config: Config) -> Plan:
    """Names inside one block, for the methods that treat all blocks alike."""
    r, n = config.get("rank", 4), config.get("prompts", 3)
    adapter = _bottleneck_plan(d, r)
    conv = adapter | {"conv.weight": Spec((r, r, 3, 3), (9 * r) ** -0.5), "conv.bias": Spec((r,), 0.1)}
    rep = {
        "a": Spec((d, r), d**-0.5),
        "a0": Spec((r,), 0.1),
        "b": Spec((2, r // 2, d // 2), 0.3),
        "b0": Spec((d,), 0.1),
    }
    plans: dict[str, Plan] = {
        "lora": {"attn.qkv.lora_a": Spec((d, r), d**-0.5), "attn.qkv.lora_b": Spec((r, 3 * d), 0.3)},
        "difffit": {"gain1": Spec((d,), 0.1, 1.0), "gain2": Spec((d,), 0.1, 1.0)},
        "adaptformer": _under(adapter, "adapter"),
        "pfeiffer": _under(adapter, "adapter"),
        "houlsby": _under(adapter, "attn_adapter") | _under(adapter, "mlp_adapter"),
        "convpass": _under(conv, "attn_conv") | _under(conv, "mlp_conv"),
        "repadapter": _under(rep, "attn_adapter") | _under(rep, "mlp_adapter"),
        "vpt_deep": {"prompts": Spec((n, d), 0.5)},
        "vqt": {"prompts": Spec((n, d), 0.5)},
    }
    return plans[method]


def _bottleneck_plan(d: int, r: int) -> Plan:
    return {
        "down.weight": Spec((d, r), d**-0.5),
        "down.bias": Spec((r,), 0.1),
        "up.weight": Spec((r, d), 0.3),
        "up.bias": Spec((d,), 0.1),
    }


def _under(plan: Plan, prefix: str) -> Plan:
    return {f"{prefix}.{name}": spec for name, spec in plan.items()}
