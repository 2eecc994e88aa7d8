"""What a plain pre-norm ViT is: the facts that the forward and the methods need.

The facts of listed ViTs are in `petl_vit.plain_vits`. All others are read from timm, whose import loads
torch's compiler too. What the forward does not compute is refused by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit import plain_vits
from petl_vit.backbone import CLASS_AND_MEAN, NORM_EPS, BackboneConfig
from petl_vit.errors import Corrupt, InvalidInput, Unsupported
from petl_vit.facts import AttentionPool, Facts, FinalNorm, Layout, Pool, Rotary

Shapes = dict[str, tuple[int, ...]]


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's approximation of GELU, as timm computes it."""
    return x * torch.sigmoid(1.702 * x)


def swiglu(x: Tensor) -> Tensor:
    """[..., 2H] -> [..., H]: the second half, gated by SiLU of the first (arXiv 2002.05202)."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "swiglu": swiglu,
}
"""What an MLP may have between its two linears."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The facts of one ViT that the forward and the methods need."""

    name: str
    width: int
    depth: int
    heads: int
    hidden: int  # of what the MLP's second linear takes; a gated MLP's first gives twice as much
    patch_size: int
    image_size: int
    class_token: bool
    register_tokens: int
    position_of_prefix: bool  # whether the position embedding covers class and register tokens
    pre_norm: bool
    final_norm: FinalNorm | None  # "norm" before pooling, "fc_norm" after it, or neither
    pool: Pool  # "map": attention pooling
    eps: float
    activation: Callable[[Tensor], Tensor]
    layer_scale: bool
    positions: bool  # whether there is a learned position embedding
    rotary: Rotary | None
    attention_pool: AttentionPool | None
    layouts: tuple[Layout, ...]  # what timm names otherwise
    shapes: Mapping[str, tuple[int, ...]]  # every parameter, by name

    @property
    def prefix_tokens(self) -> int:
        return int(self.class_token) + self.register_tokens

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def fc1_width(self) -> int:
        """What the MLP's first linear gives."""
        return self.hidden * (2 if self.activation is swiglu else 1)

    @property
    def key_bias(self) -> bool:
        """Whether keys have a bias where queries and values have one; without it theirs is zeros."""
        return "q_v_bias" not in self.layouts

    @property
    def features(self) -> int:
        """The width of the pooled feature."""
        return self.width * (2 if self.pool == CLASS_AND_MEAN else 1)

    @property
    def norms(self) -> tuple[str, ...]:
        """Sites of all LayerNorms, in order of the forward; attention pooling has none."""
        blocks = (f"blocks.{i}.{norm}" for i in range(self.depth) for norm in ("norm1", "norm2"))
        final = () if self.final_norm is None else (self.final_norm,)
        return (*(("norm_pre",) if self.pre_norm else ()), *blocks, *final)

    def at(self, image_size: int) -> "Architecture":
        """The same architecture for another image size, in pixels.

        Raises:
            InvalidInput: The size is not a multiple of the patch size.
        """
        if image_size % self.patch_size:
            near = max(1, round(image_size / self.patch_size)) * self.patch_size
            raise InvalidInput(
                f"{image_size} px is not a multiple of the patch size {self.patch_size} of {self.name}",
                field="image_size",
                remedy=f"use {near}",
            )
        shapes = dict(self.shapes)
        if self.positions:
            prefix = self.prefix_tokens if self.position_of_prefix else 0
            shapes["pos_embed"] = (1, (image_size // self.patch_size) ** 2 + prefix, self.width)
        return replace(self, image_size=image_size, shapes=shapes)


@lru_cache(maxsize=32)
def _describe(serialised: str) -> Architecture:
    config = BackboneConfig.model_validate_json(serialised)
    if NORM_EPS in config.options:
        return _with_eps(config)
    if config.options.get("global_pool") == CLASS_AND_MEAN:
        return _with_mean(config)
    listed = plain_vits.find(config)
    if listed is not None:
        return of_facts(config, listed)

    from petl_vit import timm_vit

    return timm_vit.read(config)


_OF_FACTS = Architecture.__dataclass_fields__.keys() - {"activation"}


def _with_eps(config: BackboneConfig) -> Architecture:
    """The same ViT with another epsilon of its LayerNorms."""
    options = dict(config.options)
    eps = options.pop(NORM_EPS)
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
        raise Unsupported(
            f"an epsilon of LayerNorms lies between 0 and 1, and {NORM_EPS} is {eps!r}",
            field="option",
            remedy=f"write {NORM_EPS}=1e-12",
        )
    return replace(describe(config.model_copy(update={"options": options})), eps=float(eps))


def _with_mean(config: BackboneConfig) -> Architecture:
    """The same ViT with the class token pooled, and the mean of the patches beside it."""
    arch = describe(config.model_copy(update={"options": config.timm_options}))
    if arch.final_norm == "fc_norm" or not arch.class_token:
        raise Unsupported(
            f"{config.architecture} has no class token with the final norm before pooling",
            field="option",
            remedy=f"leave out global_pool={CLASS_AND_MEAN}",
        )
    return replace(arch, pool=CLASS_AND_MEAN)


def of_facts(config: BackboneConfig, facts: Facts) -> Architecture:
    """The architecture that a config names, from its listed facts."""
    return Architecture(
        name=config.architecture,
        image_size=config.image_size,
        activation=ACTIVATIONS[facts.activation],
        shapes=facts.shapes(config.image_size),
        **{name: value for name, value in facts if name in _OF_FACTS},
    )


def describe(config: BackboneConfig) -> Architecture:
    """The architecture that a config names.

    Raises:
        Unsupported: timm does not have it, or this forward does not compute it.
    """
    return _describe(config.model_dump_json())


def check_supported(config: BackboneConfig) -> None:
    """Raises `Unsupported` where `describe` would."""
    describe(config)


def check_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], *, what: str) -> None:
    """Raises `Corrupt` unless the tensors have exactly the expected names and shapes."""
    missing = sorted(shapes.keys() - tensors.keys())
    extra = sorted(tensors.keys() - shapes.keys())
    for label, names in (("lacks", missing), ("has unexpected", extra)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise Corrupt(
                f"{what} {label} {shown}",
                field="tensors",
                remedy="it was made for another backbone or method; train or import it again",
            )
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise Corrupt(
                f"{what}: {name} has shape {tuple(tensors[name].shape)}, expected {shape}",
                field="tensors",
                remedy="it was made for another backbone, image size or config; train it again",
            )
