"""The facts of timm's plain ViTs by name, read from plain_vits.json, so that nothing has to import timm.

`make docs` writes the list from timm: every architecture that `Facts` describes exactly. A ViT that is not
listed, or that has other options than depth, width and heads, is read from timm (`petl_vit.timm_vit`). No
torch.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from petl_vit.backbone import BackboneConfig

LIST = Path(__file__).with_name("plain_vits.json")

Shape = tuple[int, ...]


class Facts(BaseModel):
    """One ViT at any image size; most fields are those of `petl_vit.architecture.Architecture`.

    Attributes:
        mean_norm: The final norm with global_pool=avg; None where `Facts` does not describe that ViT exactly.
        qkv_bias: Whether queries, keys and values have a bias.
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
    final_norm: Literal["norm", "fc_norm"]
    mean_norm: Literal["norm", "fc_norm"] | None
    pool: Literal["token", "avg", "map"]
    eps: float
    activation: Literal["gelu", "gelu_tanh", "quick_gelu"]
    layer_scale: bool
    qkv_bias: bool

    def mean_pooled(self) -> "Facts | None":
        """The same with global_pool=avg."""
        if self.mean_norm is None:
            return None
        return self.model_copy(update={"pool": "avg", "final_norm": self.mean_norm})

    def shapes(self, image_size: int) -> dict[str, Shape]:
        """Every parameter at an image size, by timm's name."""
        return dict(self._parameters(image_size))

    def _parameters(self, image_size: int) -> Iterator[tuple[str, Shape]]:
        d, prefix = self.width, int(self.class_token) + self.register_tokens
        if self.class_token:
            yield "cls_token", (1, 1, d)
        if self.register_tokens:
            yield "reg_token", (1, self.register_tokens, d)
        patches = (image_size // self.patch_size) ** 2
        yield "pos_embed", (1, patches + (prefix if self.position_of_prefix else 0), d)
        yield "patch_embed.proj.weight", (d, 3, self.patch_size, self.patch_size)
        if not self.pre_norm:
            yield "patch_embed.proj.bias", (d,)
        if self.pre_norm:
            yield from _norm("norm_pre", d)
        for block in range(self.depth):
            yield from self._block(f"blocks.{block}")
        yield from _norm(self.final_norm, d)
        if self.pool == "map":
            yield "attn_pool.latent", (1, 1, d)
            yield from _linear("attn_pool.q", d, d)
            yield from _linear("attn_pool.kv", d, 2 * d)
            yield from _linear("attn_pool.proj", d, d)
            yield from _norm("attn_pool.norm", d)
            yield from self._mlp("attn_pool.mlp")

    def _block(self, name: str) -> Iterator[tuple[str, Shape]]:
        d = self.width
        yield from _norm(f"{name}.norm1", d)
        yield from _linear(f"{name}.attn.qkv", d, 3 * d, bias=self.qkv_bias)
        yield from _linear(f"{name}.attn.proj", d, d)
        if self.layer_scale:
            yield f"{name}.ls1.gamma", (d,)
        yield from _norm(f"{name}.norm2", d)
        yield from self._mlp(f"{name}.mlp")
        if self.layer_scale:
            yield f"{name}.ls2.gamma", (d,)

    def _mlp(self, name: str) -> Iterator[tuple[str, Shape]]:
        yield from _linear(f"{name}.fc1", self.width, self.hidden)
        yield from _linear(f"{name}.fc2", self.hidden, self.width)


class Listed(BaseModel):
    """Architectures of timm that have the same facts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    facts: Facts


class List(BaseModel):
    """All listed ViTs, and the version of timm that they were read from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timm: str
    vits: tuple[Listed, ...]

    def text(self) -> str:
        """The file's text: a line for each of `vits`."""
        rows = ",\n".join(row.model_dump_json() for row in self.vits)
        return f'{{"timm":"{self.timm}","vits":[\n{rows}\n]}}\n'


def named(architecture: str) -> Facts | None:
    """The listed facts of an architecture without options; None where it is not listed."""
    return _listed().get(architecture.partition(".")[0])


def find(config: BackboneConfig) -> Facts | None:
    """The listed facts of a config's architecture; None where it has to be read from timm."""
    options = dict(config.options)
    facts = named(config.architecture)
    if facts is not None and options.get("global_pool") == "avg":
        facts = facts.mean_pooled()
        del options["global_pool"]
    return None if facts is None else _resized(facts, options)


def _resized(facts: Facts, options: dict[str, bool | int | float | str | None]) -> Facts | None:
    """The same ViT of another depth, width or number of heads; None where there are other options."""
    defaults = {"depth": facts.depth, "embed_dim": facts.width, "num_heads": facts.heads}
    if not options.keys() <= defaults.keys():
        return None
    counts = {name: value for name, value in options.items() if type(value) is int and value > 0}
    depth, width, heads = (defaults | counts).values()
    if len(counts) < len(options) or width % heads:
        return None
    ratio, rest = divmod(facts.hidden, facts.width)
    if rest and width != facts.width:  # timm would round the hidden width
        return None
    hidden = ratio * width if rest == 0 else facts.hidden
    return facts.model_copy(update={"depth": depth, "width": width, "heads": heads, "hidden": hidden})


@cache
def _listed() -> dict[str, Facts]:
    rows = List.model_validate_json(LIST.read_bytes()).vits
    return {name: row.facts for row in rows for name in row.names}


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _linear(name: str, inputs: int, outputs: int, *, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)
