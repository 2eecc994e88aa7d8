"""Hugging Face PEFT: one base model, LoRA adapters and heads named row by row (`adapter_names`).

Shapes: B rows, C classes, D width, R rank.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.adapters import CLASSES

_PARTS = {"lora_a": "lora_A", "lora_b": "lora_B"}


class PeftModel:
    """PEFT's way to run a mixed batch; for LoRA on the fused qkv linear only.

    Args:
        plain: timm's model with a head; it is copied.
        loras: The tensors of the method `lora` and its head, of each adapter.
        dtype: Of everything.
    """

    def __init__(
        self, plain: nn.Module, loras: Sequence[Mapping[str, Tensor]], dtype: torch.dtype = torch.float32
    ) -> None:
        from peft import LoraConfig, get_peft_model  # seconds, of which the other sections need none

        rank = next(t.shape[1] for name, t in loras[0].items() if name.endswith("lora_a"))
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["qkv"], modules_to_save=["head"])
        self._model = get_peft_model(copy.deepcopy(plain), config, adapter_name="0")
        for number in range(1, len(loras)):
            self._model.add_adapter(str(number), config)
        for number, lora in enumerate(loras):
            self._fill(str(number), lora)
        self._model.eval().requires_grad_(False).to(dtype)

    @torch.inference_mode()
    def logits(self, images: Tensor, which: Sequence[int]) -> Tensor:
        """[B, 3, S, S] -> [B, C], row i under adapter `which[i]`."""
        out: Tensor = self._model(images, adapter_names=[str(number) for number in which])
        assert out.shape == (len(which), CLASSES)
        return out

    @torch.no_grad()
    def _fill(self, adapter: str, lora: Mapping[str, Tensor]) -> None:
        """PEFT keeps A [R, D] and B [3D, R]; ours are their transposes."""
        inner: Any = self._model.base_model
        modules: dict[str, Any] = dict(inner.model.named_modules())
        for name, tensor in lora.items():
            site, _, part = name.rpartition(".")
            if site == "head":
                getattr(modules[f"head.modules_to_save.{adapter}"], part).copy_(tensor)
            else:
                modules[f"{site}.{_PARTS[part]}.{adapter}"].weight.copy_(tensor.T)
