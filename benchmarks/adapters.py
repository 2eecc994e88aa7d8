"""Random backbones and adapters for measurements; weights do not matter for speed."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.backbone import BackboneConfig, Options
from petl_vit.heads import LinearHead
from petl_vit.precision import Precision
from petl_vit.timm_names import canonical
from petl_vit.vit import FrozenViT

HALF = (0.5, 0.5, 0.5)
CLASSES = 10


def backbone(
    architecture: str, image_size: int, options: Options | None = None
) -> tuple[FrozenViT, nn.Module]:
    """Our backbone and timm's plain model with a head, on the same weights.

    Args:
        options: Further arguments of timm.create_model.
    """
    import timm  # seconds, of which the processes that only serve need none

    torch.manual_seed(0)
    config = BackboneConfig(
        architecture=architecture, options=options or {}, image_size=image_size, mean=HALF, std=HALF
    )
    own: dict[str, Any] = {"num_classes": CLASSES, "img_size": image_size} | config.timm_options
    plain = timm.create_model(architecture, **own).eval()
    plain.requires_grad_(False)
    tensors = {n: p for n, p in plain.named_parameters() if not n.startswith("head.")}
    return FrozenViT(config, canonical(tensors)), plain


def tensors(name: str, vit: FrozenViT, seed: int, classes: int = CLASSES) -> dict[str, Tensor]:
    """A method's tensors at its default settings and a head, random and none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    start = methods.get(name)().init(vit, generator)
    own = {n: t + 0.01 * torch.randn(t.shape, generator=generator) for n, t in start.items()}
    return own | LinearHead.init(classes, vit.arch.features, generator).tensors()


def base_head(vit: FrozenViT, classes: int = CLASSES) -> LinearHead:
    """The head that all adapters of a backbone start from."""
    return LinearHead.init(classes, vit.arch.features, torch.Generator().manual_seed(0))


def adapter(name: str, vit: FrozenViT, seed: int, *, on: FrozenViT | None = None) -> Adapter:
    """An adapter of a method at its default settings, with random non-zero tensors.

    Args:
        vit: The backbone in float32.
        on: The same as the adapter runs on it; None means `vit`.
    """
    return Adapter.load(
        digest=f"{name}-{seed}",
        method=methods.get(name)(),
        tensors=tensors(name, vit, seed),
        vit=vit if on is None else on,
        base_head=base_head(vit),
        task_digest="task",
    )


def plain_forward(plain: nn.Module, images: Tensor, precision: Precision) -> Callable[[], Tensor]:
    """timm's forward of images [B, 3, S, S], everything in a precision; the model is copied for bf16."""
    if precision is Precision.BF16:
        plain, images = copy.deepcopy(plain).bfloat16(), images.bfloat16()

    def run() -> Tensor:
        with torch.inference_mode():
            logits: Tensor = plain(images)
            return logits

    return run
