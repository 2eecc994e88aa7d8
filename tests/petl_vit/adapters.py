"""Random adapters of every registered method, in which no tensor is left at a trivial value."""

import torch
from torch import Tensor

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.heads import LinearHead
from petl_vit.methods.method import Method
from petl_vit.vit import FrozenViT
from tests.petl_vit.backbones import FAMILIES

CLASSES = 5
NAMES = methods.names()
SMALL: dict[str, dict[str, float]] = {
    "lora": {"rank": 3},
    "dora": {"rank": 3, "scale": 0.7},
    "vera": {"rank": 3, "d_initial": 1.0},
    "adaptformer": {"rank": 3, "scale": 0.7},
    "vpt_deep": {"prompts": 4},
    "vpt_shallow": {"prompts": 4},
    "vqt": {"prompts": 3},
    "houlsby": {"rank": 3, "scale": 0.7},
    "pfeiffer": {"rank": 3, "scale": 0.7},
    "repadapter": {"rank": 4, "scale": 0.7},
    "convpass": {"rank": 3, "scale": 0.7},
    "fact_tt": {"rank": 3, "scale": 0.7},
    "fact_tk": {"rank": 3, "scale": 0.7},
}


GATED = ("swiglu", "dinov3-plus")
"""Families whose MLP does not consist of FacT's units."""
WHOLE = ("plain", "mean-pooled", "dinov2", "clip", "siglip", "dinov3", "swiglu")
"""Families that every method is tested on; the others share the methods among them."""


def fits(name: str, kind: str) -> bool:
    """Whether a method makes sense on a family."""
    if name.startswith("fact_"):
        return kind not in GATED
    return name != "vqt" or kind != "class-and-mean"


def names_on(kind: str) -> list[str]:
    return [name for name in NAMES if fits(name, kind)]


_OTHERS = [kind for kind in FAMILIES if kind not in WHOLE]
PAIRS = [
    *((name, kind) for kind in WHOLE for name in names_on(kind)),
    *((n, _OTHERS[i % len(_OTHERS)]) for i, n in enumerate(NAMES) if fits(n, _OTHERS[i % len(_OTHERS)])),
]
"""A method and a family that it is tested on."""


def method_of(name: str) -> Method:
    return methods.get(name).configure(SMALL.get(name, {}))


def random_tensors(method: Method, vit: FrozenViT, seed: int = 0) -> dict[str, Tensor]:
    """The starting tensors, each moved by noise so that nothing is trivially zero."""
    generator = torch.Generator().manual_seed(seed)
    start = method.init(vit.to(dtype=torch.float32), generator)
    noise = {n: 0.05 * torch.randn(t.shape, generator=generator) for n, t in start.items()}
    return {name: (tensor + noise[name]).to(vit.dtype) for name, tensor in start.items()}


def images_of(vit: FrozenViT, count: int = 3, seed: int = 7) -> Tensor:
    size = vit.arch.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed)).to(vit.dtype)


def adapter_of(name: str, vit: FrozenViT, seed: int = 0, *, start: FrozenViT | None = None) -> Adapter:
    return adapter_with(method_of(name), vit, seed, start=start)


def adapter_with(method: Method, vit: FrozenViT, seed: int = 0, *, start: FrozenViT | None = None) -> Adapter:
    """An adapter on a backbone; its tensors start from `start`, by default from the same backbone."""
    generator = torch.Generator().manual_seed(seed + 100)
    width = vit.arch.features
    base = LinearHead.init(CLASSES, width, torch.Generator().manual_seed(1))
    head = LinearHead.init(CLASSES, width, generator)
    return Adapter.load(
        digest=f"{method.name}-{seed}",
        method=method,
        tensors=random_tensors(method, start or vit, seed) | head.tensors(),
        vit=vit,
        base_head=base.to(device=vit.device, dtype=vit.dtype),
        task_digest="task",
    )
