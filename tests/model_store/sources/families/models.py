"""Tiny random models of the real transformers, and what each computes of an image."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor

SIDE = 28
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 14,
}
PLAIN = SIZES | {"intermediate_size": 64}
DINOV3 = PLAIN | {"patch_size": 14, "num_register_tokens": 4}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model of transformers.

    Attributes:
        config: Its config's class.
        model: Its class.
        fields: Of the config, or of its `vision_config`.
        feature: What it computes that our pooled feature is to equal, of its output.
    """

    config: str
    model: str
    fields: dict[str, Any]
    feature: Callable[[Any], Tensor]


def _token(out: Any) -> Tensor:
    return out.last_hidden_state[:, 0]


def _pooled(out: Any) -> Tensor:
    return out.pooler_output


def _mean(out: Any) -> Tensor:
    return out.last_hidden_state.mean(dim=1)


CASES = {
    "ViT": Case(config="ViTConfig", model="ViTModel", fields=PLAIN, feature=_token),
    "ViT, 1e-6": Case(
        config="ViTConfig",
        model="ViTModel",
        fields=PLAIN | {"layer_norm_eps": 1e-6, "qkv_bias": False, "hidden_act": "gelu_new"},
        feature=_token,
    ),
    "ViTMSN": Case(config="ViTMSNConfig", model="ViTMSNModel", fields=PLAIN, feature=_token),
    "DINOv2": Case(
        config="Dinov2Config", model="Dinov2Model", fields=SIZES | {"mlp_ratio": 2}, feature=_token
    ),
    "DINOv2, gated": Case(
        config="Dinov2Config", model="Dinov2Model", fields=SIZES | {"use_swiglu_ffn": True}, feature=_token
    ),
    "DINOv2, registers": Case(
        config="Dinov2WithRegistersConfig", model="Dinov2WithRegistersModel", fields=SIZES, feature=_token
    ),
    "DINOv2, registers, gated": Case(
        config="Dinov2WithRegistersConfig",
        model="Dinov2WithRegistersModel",
        fields=SIZES | {"use_swiglu_ffn": True},
        feature=_token,
    ),
    "DINOv3": Case(config="DINOv3ViTConfig", model="DINOv3ViTModel", fields=DINOV3, feature=_pooled),
    "DINOv3, biases": Case(
        config="DINOv3ViTConfig",
        model="DINOv3ViTModel",
        fields=DINOV3 | {"key_bias": True, "num_register_tokens": 0},
        feature=_pooled,
    ),
    "DINOv3, no biases": Case(
        config="DINOv3ViTConfig",
        model="DINOv3ViTModel",
        fields=DINOV3 | {"query_bias": False, "value_bias": False},
        feature=_pooled,
    ),
    "DINOv3, gated": Case(
        config="DINOv3ViTConfig",
        model="DINOv3ViTModel",
        fields=DINOV3 | {"use_gated_mlp": True, "hidden_act": "silu", "intermediate_size": 60},
        feature=_pooled,
    ),
    "CLIP": Case(config="CLIPVisionConfig", model="CLIPVisionModel", fields=PLAIN, feature=_pooled),
    "CLIP, GELU": Case(
        config="CLIPVisionConfig",
        model="CLIPVisionModelWithProjection",
        fields=PLAIN | {"hidden_act": "gelu"},
        feature=_pooled,
    ),
    "SigLIP": Case(config="SiglipVisionConfig", model="SiglipVisionModel", fields=PLAIN, feature=_pooled),
    "SigLIP, no head": Case(
        config="SiglipVisionConfig",
        model="SiglipVisionModel",
        fields=PLAIN | {"hidden_act": "gelu", "vision_use_head": False},
        feature=_mean,
    ),
}


@cache
def model(label: str) -> Any:
    """The model of a case, with no parameter at a trivial value."""
    case = CASES[label]
    torch.manual_seed(0)
    found = getattr(transformers, case.model)(getattr(transformers, case.config)(**case.fields))
    return randomised(found)


def randomised(found: Any) -> Any:
    """The model with noise on all parameters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return found.eval().requires_grad_(False)


def images(side: int = SIDE) -> Tensor:
    """[2, 3, side, side]"""
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
