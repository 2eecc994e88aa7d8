"""Random backbones and adapters for measurements; weights do not matter for speed."""

import timm
import torch
from torch import nn

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.heads import LinearHead
from petl_vit.vit import BackboneConfig, FrozenViT

HALF = (0.5, 0.5, 0.5)
CLASSES = 10


def backbone(architecture: str, image_size: int) -> tuple[FrozenViT, nn.Module]:
    """Our backbone and timm's plain model with a head, on the same weights."""
    torch.manual_seed(0)
    plain = timm.create_model(architecture, num_classes=CLASSES, img_size=image_size).eval()
    plain.requires_grad_(False)
    config = BackboneConfig(architecture=architecture, image_size=image_size, mean=HALF, std=HALF)
    tensors = {n: p for n, p in plain.named_parameters() if not n.startswith("head.")}
    return FrozenViT(config, tensors), plain


def adapter(name: str, vit: FrozenViT, seed: int) -> Adapter:
    """An adapter of a method at its default settings, with random non-zero tensors."""
    generator = torch.Generator().manual_seed(seed)
    method = methods.get(name)()
    start = method.init(vit, generator)
    tensors = {n: t + 0.01 * torch.randn(t.shape, generator=generator) for n, t in start.items()}
    width = vit.arch.width
    head = LinearHead.init(CLASSES, width, generator)
    return Adapter.load(
        digest=f"{name}-{seed}",
        method=method,
        tensors=tensors | head.tensors(),
        vit=vit,
        base_head=LinearHead.init(CLASSES, width, torch.Generator().manual_seed(0)),
        task_digest="task",
    )
