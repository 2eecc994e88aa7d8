"""Methods that add a branch to a block."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.petl_vit.reference.draft import Config, Draft, reference


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


@reference
def adaptformer(draft: Draft) -> None:
    """An adapter parallel to the MLP, on the residual stream before LN2."""
    _branch(draft, AdaptFormerBlock)


@reference
def pfeiffer(draft: Draft) -> None:
    """An adapter with inner skip on the MLP's output."""
    _branch(draft, PfeifferBlock)


@reference
def houlsby(draft: Draft) -> None:
    """An adapter with inner skip on the output of both sublayers."""
    _branch(draft, HoulsbyBlock)


@reference
def convpass(draft: Draft) -> None:
    """A convolutional bottleneck parallel to both sublayers, on the LayerNorm's output."""
    _branch(draft, ConvpassBlock)
