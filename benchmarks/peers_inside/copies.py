"""One merged timm model for each adapter: plain speed, and as many copies of the backbone as adapters.

Shapes: B rows, C classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from benchmarks.adapters import CLASSES
from petl_vit.vit import FrozenViT


def merged(lora: Mapping[str, Tensor], vit: FrozenViT) -> nn.Module:
    """timm's plain model with a LoRA folded into its weights.

    Args:
        lora: The tensors of the method `lora` and its head.
    """
    weights = dict(vit.params) | {name: t for name, t in lora.items() if name.startswith("head.")}
    for name in lora:
        site, _, part = name.rpartition(".")
        if part == "lora_a":
            change = lora[f"{site}.lora_a"] @ lora[f"{site}.lora_b"]
            weights[f"{site}.weight"] = weights[f"{site}.weight"] + change.T
    model = _empty(vit.arch.name, vit.arch.image_size)
    model.load_state_dict(weights)
    return model


def save(model: nn.Module, file: Path) -> None:
    """Writes a model's weights."""
    safetensors.torch.save_file({n: t.contiguous() for n, t in model.state_dict().items()}, file)


def read(file: Path, architecture: str, image_size: int) -> nn.Module:
    """The model that `save` wrote."""
    model = _empty(architecture, image_size)
    model.load_state_dict(safetensors.torch.load_file(file))
    return model


class Copies:
    """Models side by side; each gets the rows that are its own."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._models = models

    @torch.inference_mode()
    def logits(self, images: Tensor, which: Sequence[int]) -> Tensor:
        """[B, 3, S, S] -> [B, C], row i by model `which[i]`."""
        out = images.new_empty(len(which), CLASSES)
        for number in sorted(set(which)):
            rows = [i for i, asked in enumerate(which) if asked == number]
            out[rows] = self._models[number](images[rows])
        return out


def _empty(architecture: str, image_size: int) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(architecture, num_classes=CLASSES, img_size=image_size)
    return model.eval().requires_grad_(False)
