"""VQT: query tokens beside every block read its keys and values, and join the feature (arXiv 2212.03220).

The n queries P_l of block l attend to the block's tokens and go through residual, LayerScale and MLP as
any token, but nothing attends to them and they are cut off after the block, so the frozen stream is
untouched. They have no position, as the class token: on a backbone with rotary ones they are not turned,
while the keys that they read are. Feature: m = sum of w_j v_j over the L2-normalised frozen feature and the
M n L2-normalised query outputs, w a trained mix of ones; at alpha (1 - alpha) f + alpha m (ours). Drop path
does not act on queries. Dropout does in training, with one mask for the batch; the study used 0.1.
Parameters: M n D + M n + 1; ViT-B/16 n=10 92,281.
"""

import math
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes
from petl_vit.attention import attend, merge_heads
from petl_vit.edits import Edit
from petl_vit.errors import Unsupported
from petl_vit.methods.method import Method, Tensors, uniform
from petl_vit.products import linear, part_of_linear
from petl_vit.prompts import Queries
from petl_vit.vit import FrozenViT


class VQT(Method):
    """Visual query tuning."""

    name: ClassVar[str] = "vqt"
    title: ClassVar[str] = "VQT"
    paper: ClassVar[str] = "arXiv 2212.03220"
    foldable: ClassVar[bool] = False
    by_block: ClassVar[bool] = False
    published_linears: ClassVar[tuple[str, ...]] = ("mix",)

    prompts: int = Field(default=10, ge=1, le=1024, description="queries beside each block")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout on the queries, in training")

    @property
    def starts_as_identity(self) -> bool:
        return False

    def shapes(self, arch: Architecture) -> Shapes:
        if arch.features != arch.width:
            raise Unsupported(
                f"VQT joins queries as wide as the tokens to the feature, which has {arch.features} numbers "
                f"on {arch.name}, not {arch.width}",
                field="method",
                remedy="use another method on this backbone, or the class token alone (global_pool=token)",
            )
        queries: Shapes = {f"blocks.{i}.prompts": (self.prompts, arch.width) for i in range(arch.depth)}
        return queries | {"mix": (1 + arch.depth * self.prompts,)}

    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        bound = math.sqrt(6 / (3 * vit.arch.patch_size**2 + vit.arch.width))
        shapes = self.shapes(vit.arch)
        queries = {name: uniform(shape, bound, generator) for name, shape in shapes.items() if name != "mix"}
        return queries | {"mix": torch.ones(shapes["mix"])}

    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        prompts = tuple(tensors[f"blocks.{i}.prompts"] for i in range(vit.arch.depth))
        through = partial(_through_block, vit)
        return [Queries(mix=tensors["mix"], prompts=prompts, through_block=through, dropout=self.dropout)]


def _through_block(
    vit: FrozenViT, block: int, prompts: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None
) -> Tensor:
    """Queries [n, D] through a frozen block whose tokens have keys and values [B, H, N, d]: [B, n, D]."""
    p, arch, name = vit.params, vit.arch, f"blocks.{block}"

    def norm(site: str, x: Tensor) -> Tensor:
        weight = p[f"{name}.{site}.weight"]
        return F.layer_norm(x, weight.shape, weight, p[f"{name}.{site}.bias"], arch.eps)

    def scaled(gamma: str, x: Tensor) -> Tensor:
        return x * p[f"{name}.{gamma}.gamma"] if arch.layer_scale else x

    q = part_of_linear(p, f"{name}.attn.qkv", norm("norm1", prompts), slice(arch.width))
    q = q.unflatten(-1, (arch.heads, -1)).transpose(0, 1).expand(keys.shape[0], -1, -1, -1)
    attended = merge_heads(attend(q.to(keys.dtype), keys, values, [], bias))
    x = prompts + scaled("ls1", linear(p, f"{name}.attn.proj", attended))
    hidden = arch.activation(linear(p, f"{name}.mlp.fc1", norm("norm2", x)))
    return x + scaled("ls2", linear(p, f"{name}.mlp.fc2", hidden))
