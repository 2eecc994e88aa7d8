"""The facts of one ViT, from which its parameters follow. No torch.

Names and shapes are those of `petl_vit.vit`, which one layout of timm's parameters has; `petl_vit.timm_names`
converts the others.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict

Shape = tuple[int, ...]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"]
FinalNorm = Literal["norm", "fc_norm"]
Pool = Literal["token", "avg", "token+avg", "map"]
Layout = Literal["gamma", "q_v_bias", "q_k_v", "gate_value"]
"""In which way timm names parameters of a ViT otherwise (`petl_vit.timm_names`)."""


class Rotary(BaseModel):
    """Rotary positions: each pair of numbers of a patch's queries and keys is turned by an angle.

    The angle is a coordinate of the patch times a frequency. `petl_vit.rotary` computes it.

    Attributes:
        kind: How coordinates and frequencies are spaced: DINOv3's, or those of EVA-02 and PE ("axial").
        temperature: The ratio of the largest wave length to the smallest.
        offset: Added to the patches' coordinates.
        column_first: Whether the first half of the pairs turns by the column, not the row.
        halves: Whether a pair is i and i + d / 2, not 2 i and 2 i + 1, of d numbers of a head.
        reference: The grid of pretraining that any other is scaled to; None where it is not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dinov3", "axial"]
    temperature: float
    offset: float = 0.0
    column_first: bool = False
    halves: bool = False
    reference: int | None = None


class AttentionPool(BaseModel):
    """Attention pooling: one learned query over all tokens, then an MLP with a residual.

    Attributes:
        prefix: Whether class and register tokens are among the tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    heads: int
    hidden: int
    activation: Activation
    prefix: bool


class Facts(BaseModel):
    """One ViT at any image size; most fields are those of `petl_vit.architecture.Architecture`.

    Attributes:
        hidden: The width of what the MLP's second linear takes. A gated MLP's first gives twice as much.
        mean_norm: The final norm with global_pool=avg; None where `Facts` does not describe that ViT exactly.
        qkv_bias: Whether queries, keys and values have a bias.
        positions: Whether there is a learned position embedding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int
    depth: int
    heads: int
    hidden: int
    patch_size: int
    class_token: bool
    register_tokens: int
    position_of_prefix: bool
    pre_norm: bool
    final_norm: FinalNorm | None
    mean_norm: FinalNorm | None
    pool: Pool
    eps: float
    activation: Activation
    layer_scale: bool
    qkv_bias: bool
    positions: bool = True
    rotary: Rotary | None = None
    attention_pool: AttentionPool | None = None
    layouts: tuple[Layout, ...] = ()

    def mean_pooled(self) -> "Facts | None":
        """The same with global_pool=avg."""
        if self.mean_norm is None:
            return None
        changes = {"pool": "avg", "final_norm": self.mean_norm, "attention_pool": None}
        return self.model_copy(update=changes)

    def shapes(self, image_size: int) -> dict[str, Shape]:
        """Every parameter at an image size, by name."""
        return dict(self._parameters(image_size))

    def _parameters(self, image_size: int) -> Iterator[tuple[str, Shape]]:
        d, prefix = self.width, int(self.class_token) + self.register_tokens
        if self.class_token:
            yield "cls_token", (1, 1, d)
        if self.register_tokens:
            yield "reg_token", (1, self.register_tokens, d)
        patches = (image_size // self.patch_size) ** 2
        if self.positions:
            yield "pos_embed", (1, patches + (prefix if self.position_of_prefix else 0), d)
        yield "patch_embed.proj.weight", (d, 3, self.patch_size, self.patch_size)
        if not self.pre_norm:
            yield "patch_embed.proj.bias", (d,)
        if self.pre_norm:
            yield from _norm("norm_pre", d)
        for block in range(self.depth):
            yield from self._block(f"blocks.{block}")
        if self.final_norm is not None:
            yield from _norm(self.final_norm, d)
        if self.attention_pool is not None:
            yield "attn_pool.latent", (1, 1, d)
            yield from _linear("attn_pool.q", d, d)
            yield from _linear("attn_pool.kv", d, 2 * d)
            yield from _linear("attn_pool.proj", d, d)
            yield from _norm("attn_pool.norm", d)
            yield from _linear("attn_pool.mlp.fc1", d, self.attention_pool.hidden)
            yield from _linear("attn_pool.mlp.fc2", self.attention_pool.hidden, d)

    def _block(self, name: str) -> Iterator[tuple[str, Shape]]:
        d = self.width
        yield from _norm(f"{name}.norm1", d)
        yield from _linear(f"{name}.attn.qkv", d, 3 * d, bias=self.qkv_bias)
        yield from _linear(f"{name}.attn.proj", d, d)
        if self.layer_scale:
            yield f"{name}.ls1.gamma", (d,)
        yield from _norm(f"{name}.norm2", d)
        yield from _linear(f"{name}.mlp.fc1", d, self.hidden * (2 if self.activation == "swiglu" else 1))
        yield from _linear(f"{name}.mlp.fc2", self.hidden, d)
        if self.layer_scale:
            yield f"{name}.ls2.gamma", (d,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _linear(name: str, inputs: int, outputs: int, *, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)
