"""The base of a PETL method: a frozen config that names the tensors it trains and builds their edits."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from petl_vit.architecture import Architecture, Shapes, describe
from petl_vit.backbone import BackboneConfig
from petl_vit.edits import Edit
from petl_vit.errors import InvalidInput
from petl_vit.vit import FrozenViT

Tensors = Mapping[str, Tensor]
_QKV_BIAS = ".attn.qkv.bias"


class Method(BaseModel):
    """A method with its hyper-parameters. Subclasses add fields with limits and a description."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    foldable: ClassVar[bool]
    learning_rate: ClassVar[float] = 1e-3  # safe for every method in the study's results
    head_learning_rate: ClassVar[float | None] = None  # where the head's is not the same
    faster_if_short: ClassVar[bool] = True  # takes a higher rate in a short run (training/run/rates.py)
    drop_path: ClassVar[float] = 0.1
    trained: ClassVar[bool] = True  # False: built from adapters, and not a choice of `corolla train`
    by_block: ClassVar[bool] = True  # whether alpha may differ by block: not where prompts pass through all
    published_linears: ClassVar[tuple[str, ...]] = ()  # names or their ends; see `init_published`

    @classmethod
    def configure(cls, config: Mapping[str, Any]) -> Self:
        """The method with a config from a user or a file.

        Raises:
            InvalidInput: A value is out of range or a name unknown; names the field.
        """
        try:
            return cls.model_validate(dict(config))
        except ValidationError as error:
            first = error.errors()[0]
            known = ", ".join(cls.model_fields) or "none"
            raise InvalidInput(
                f"{first['msg'][0].lower()}{first['msg'][1:]} (got {first['input']!r})",
                field=".".join([cls.name, *map(str, first["loc"])]),
                remedy=f"settings of {cls.name}: {known}",
            ) from None

    @property
    def starts_as_identity(self) -> bool:
        """Whether a new adapter changes nothing."""
        return True

    @abstractmethod
    def shapes(self, arch: Architecture) -> Shapes:
        """Name and shape of every tensor that the method trains (the head is not among them)."""

    @abstractmethod
    def init(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        """Starting tensors, float32 on the CPU.

        Args:
            vit: The backbone, on the CPU in float32.
            generator: The only source of randomness.
        """

    def init_published(self, vit: FrozenViT, generator: torch.Generator) -> dict[str, Tensor]:
        """Starting tensors of the study's published runs, which its configs do not name.

        There timm's `init_weights` ran after the methods had filled their tensors, and set every linear
        layer in the model, theirs included, to weights N(0, 0.02) and biases 0. Whatever was not a linear
        layer kept its start: prompts, scales, convolutions, FacT-TK's Tucker tensor. So methods that start
        as the identity no longer do.
        """
        start = self.init(vit, generator)
        for name, tensor in start.items():
            if any(name == end or name.endswith(f".{end}") for end in self.published_linears):
                start[name] = torch.zeros_like(tensor)
                if not name.endswith(".bias"):
                    start[name].normal_(0, 0.02, generator=generator)
        return start

    @abstractmethod
    def edits(self, vit: FrozenViT, tensors: Tensors) -> list[Edit]:
        """The edits that the tensors define. Gradients flow from the edits to the tensors."""

    def notes(self, arch: Architecture, *, published: bool = False) -> list[str]:
        """What a user should know of these settings on an architecture, such as one that has no effect.

        Args:
            published: Whether it starts as the published runs did.
        """
        if published and not self.published_linears:
            return [f"init published changes nothing: {self.title} started so in the study's runs, too"]
        return []

    def parameters(self, arch: Architecture) -> int:
        """Number of trained parameters, the head not counted."""
        shapes = self.shapes(arch)
        absent = 0 if arch.key_bias else arch.width * sum(name.endswith(_QKV_BIAS) for name in shapes)
        return sum(torch.Size(shape).numel() for shape in shapes.values()) - absent


def edit_kinds(method: Method) -> list[str]:
    """The kinds of a method's edits, by name, from building them on a toy backbone."""
    options: dict[str, bool | int | float | str | None] = {"depth": 1, "embed_dim": 12, "num_heads": 1}
    half = (0.5, 0.5, 0.5)
    config = BackboneConfig(
        architecture="vit_tiny_patch16_224", options=options, image_size=16, mean=half, std=half
    )
    vit = FrozenViT(config, {name: torch.zeros(shape) for name, shape in describe(config).shapes.items()})
    tensors = method.init(vit, torch.Generator())
    return sorted({type(edit).__name__ for edit in method.edits(vit, tensors)})


def trained(arch: Architecture, name: str, tensor: Tensor) -> Tensor:
    """A parameter of the backbone for an edit, without a gradient of the bias that keys do not have."""
    if arch.key_bias or not tensor.requires_grad or not name.endswith(_QKV_BIAS):
        return tensor
    queries, keys, values = tensor.chunk(3)
    return torch.cat([queries, keys.detach(), values])


def linear_sites(arch: Architecture) -> dict[str, int]:
    """Every linear site of the blocks, with its output width, in order of the forward."""
    widths = {
        "attn.qkv": 3 * arch.width,
        "attn.proj": arch.width,
        "mlp.fc1": arch.fc1_width,
        "mlp.fc2": arch.width,
    }
    return {f"blocks.{i}.{site}": width for i in range(arch.depth) for site, width in widths.items()}


def uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    """U(-bound, bound)."""
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
