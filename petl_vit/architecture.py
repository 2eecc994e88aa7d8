"""What a plain pre-norm ViT is: the facts that the forward and the methods need.

The facts of listed ViTs are in `petl_vit.plain_vits`. All others are read from timm, whose import loads
torch's compiler too. What the forward does not compute is refused by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit import plain_vits
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import Corrupt, InvalidInput

Shapes = dict[str, tuple[int, ...]]


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's approximation of GELU, as timm computes it."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
}
"""The activations that an MLP may have between its two linears."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The facts of one ViT that the forward and the methods need."""

    name: str
    width: int
    depth: int
    heads: int
    hidden: int
    patch_size: int
    image_size: int
    class_token: bool
    register_tokens: int
    position_of_prefix: bool  # whether the position embedding covers class and register tokens
    pre_norm: bool
    final_norm: str  # "norm" before pooling or "fc_norm" after it
    pool: str  # "token", "avg" or "map" (attention pooling)
    eps: float
    activation: Callable[[Tensor], Tensor]
    layer_scale: bool
    shapes: Mapping[str, tuple[int, ...]]  # every parameter, by timm's name

    @property
    def prefix_tokens(self) -> int:
        return int(self.class_token) + self.register_tokens

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def norms(self) -> tuple[str, ...]:
        """Sites of all LayerNorms, in order of the forward; attention pooling has none."""
        blocks = (f"blocks.{i}.{norm}" for i in range(self.depth) for norm in ("norm1", "norm2"))
        return (*(("norm_pre",) if self.pre_norm else ()), *blocks, self.final_norm)

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
        prefix = self.prefix_tokens if self.position_of_prefix else 0
        tokens = (image_size // self.patch_size) ** 2 + prefix
        shapes = dict(self.shapes) | {"pos_embed": (1, tokens, self.width)}
        return Architecture(**(self.__dict__ | {"image_size": image_size, "shapes": shapes}))


@lru_cache(maxsize=32)
def _describe(serialised: str) -> Architecture:
    config = BackboneConfig.model_validate_json(serialised)
    listed = plain_vits.find(config)
    if listed is not None:
        return of_facts(config, listed)

    from petl_vit import timm_vit

    return timm_vit.read(config)


def of_facts(config: BackboneConfig, facts: plain_vits.Facts) -> Architecture:
    """The architecture that a config names, from its listed facts."""
    return Architecture(
        name=config.architecture,
        image_size=config.image_size,
        activation=ACTIVATIONS[facts.activation],
        shapes=facts.shapes(config.image_size),
        **facts.model_dump(include=Architecture.__dataclass_fields__.keys() - {"activation"}),
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
