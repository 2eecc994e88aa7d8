"""Tiny random image models of transformers, each with a store that has its frozen weights as a backbone."""

import copy
import json
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from model_store.format.records import TaskSpec
from model_store.interchange import peft_names
from model_store.interchange.peft_names import CONFIG, WEIGHTS
from model_store.resolution.loading import Loader
from model_store.resolution.versions import resolve
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit.architecture import describe
from petl_vit.backbone import BackboneConfig, Options
from petl_vit.batch import Batch, Row
from petl_vit.heads import LinearHead
from petl_vit.image_input import Preprocess

CLASSES = ("ant", "bee", "cat", "dog", "eel")
HALF = (0.5, 0.5, 0.5)
_SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_WIDE = _SMALL | {"intermediate_size": 128}
_NARROW: Options = {"embed_dim": 64, "num_heads": 2, "depth": 2}


@dataclass(frozen=True)
class Family:
    """One model class of transformers, and what timm calls the same ViT."""

    model: str
    config: str
    settings: dict[str, Any]
    architecture: str
    image_size: int
    options: Options


FAMILIES = {
    "vit": Family(
        "ViTForImageClassification",
        "ViTConfig",
        _WIDE | {"image_size": 32, "patch_size": 16, "layer_norm_eps": 1e-6, "num_labels": 5},
        "vit_tiny_patch16_224",
        32,
        {"mlp_ratio": 2.0},
    ),
    "dinov2": Family(
        "Dinov2ForImageClassification",
        "Dinov2Config",
        _SMALL | {"image_size": 28, "patch_size": 14, "num_labels": 5},
        "vit_small_patch14_dinov2",
        28,
        {"global_pool": "token+avg"},
    ),
    "dinov2-swiglu": Family(
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        _SMALL | {"image_size": 28, "patch_size": 14, "num_labels": 5, "use_swiglu_ffn": True},
        "vit_giant_patch14_reg4_dinov2",
        28,
        {"global_pool": "token+avg", "mlp_ratio": 5.5},
    ),
    "dinov3": Family(
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        _WIDE | {"image_size": 48, "patch_size": 16, "num_register_tokens": 4},
        "vit_small_patch16_dinov3_qkvb",
        48,
        {"mlp_ratio": 2.0, "global_pool": "token"},
    ),
    "dinov3-gated": Family(
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        _WIDE
        | {"image_size": 48, "patch_size": 16, "num_register_tokens": 4}
        | {"use_gated_mlp": True, "hidden_act": "silu"},
        "vit_small_plus_patch16_dinov3_qkvb",
        48,
        {"mlp_ratio": 2.0, "global_pool": "token"},
    ),
    "clip": Family(
        "CLIPVisionModel",
        "CLIPVisionConfig",
        _WIDE | {"image_size": 32, "patch_size": 16},
        "vit_base_patch16_clip_quickgelu_224",
        32,
        {"mlp_ratio": 2.0},
    ),
    "siglip": Family(
        "SiglipVisionModel",
        "SiglipVisionConfig",
        _WIDE | {"image_size": 32, "patch_size": 16},
        "vit_base_patch16_siglip_224",
        32,
        {"mlp_ratio": 2.0, "act_layer": "gelu_tanh"},
    ),
    "clip-classifier": Family(
        "CLIPForImageClassification",
        "CLIPConfig",
        {"vision_config": _WIDE | {"image_size": 32, "patch_size": 16}, "num_labels": 5},
        "vit_base_patch16_clip_quickgelu_224",
        32,
        {"mlp_ratio": 2.0, "global_pool": "avg", "final_norm": False},
    ),
    "siglip-classifier": Family(
        "SiglipForImageClassification",
        "SiglipConfig",
        {"vision_config": _WIDE | {"image_size": 32, "patch_size": 16}, "num_labels": 5},
        "vit_base_patch16_siglip_224",
        32,
        {"mlp_ratio": 2.0, "act_layer": "gelu_tanh", "global_pool": "avg", "fc_norm": False},
    ),
}


class Hugging:
    """A model of transformers, and a store with a task `zoo` over its frozen weights."""

    def __init__(self, name: str, folder: Path) -> None:
        import transformers

        self.family = family = FAMILIES[name]
        torch.manual_seed(0)
        config = getattr(transformers, family.config)(**family.settings)
        self.frozen: Any = getattr(transformers, family.model)(config).eval()
        with torch.no_grad():
            for parameter in self.frozen.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        self.store = Store.open(str(folder / "store"))
        backbone = BackboneConfig(
            architecture=family.architecture,
            image_size=family.image_size,
            options=_NARROW | family.options,
            mean=HALF,
            std=HALF,
        )
        self.backbone = self.store.backbones.put(
            name, backbone, frozen_of(self.frozen, describe(backbone).shapes), "transformers"
        )
        self.loader = Loader(self.store, self.backbone)
        self.vit = self.loader.vit(family.image_size)
        spec = TaskSpec.of(
            name="zoo",
            classes=CLASSES,
            preprocess=Preprocess(image_size=family.image_size, mean=HALF, std=HALF),
            backbone_digest=self.backbone.digest,
        )
        width = self.vit.arch.features
        self.head = LinearHead.init(5, width, torch.Generator().manual_seed(1))
        self.task = self.store.tasks.put(spec, self.head.tensors())
        size = (3, 3, family.image_size, family.image_size)
        self.images = torch.randn(size, generator=torch.Generator().manual_seed(2))

    @torch.no_grad()
    def expected(self, model: Any) -> Tensor:
        """[3, 5]: the logits of a model of transformers, or of its pooled feature and the base head."""
        found = model(pixel_values=self.images)
        return found.logits if hasattr(found, "logits") else self.head.logits(found.pooler_output)

    @torch.no_grad()
    def logits(self, route: str) -> Tensor:
        """[3, 5] as served."""
        resolved = resolve(
            parse_route(route), task="zoo", store=self.store, backbone_digest=self.backbone.digest
        )
        (model,) = self.loader.models(resolved)
        rows = [Row(image=i, model=model) for i in range(3)]
        return torch.stack(Batch(self.vit).logits(self.images, rows))

    def trained(
        self, folder: Path, change: Callable[[Any], None] = lambda model: None, **settings: Any
    ) -> Any:
        """PEFT's model with a random LoRA, saved in a folder; `change` may alter it before."""
        import peft

        heads = ["classifier"] if hasattr(self.frozen, "classifier") else None
        config = peft.LoraConfig(**({"r": 3, "lora_alpha": 5, "modules_to_save": heads} | settings))
        torch.manual_seed(3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that will go
            model = peft.get_peft_model(copy.deepcopy(self.frozen), config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name or "modules_to_save" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
            change(model)
        model.save_pretrained(folder)
        return model


def respelt(folder: Path, names: dict[str, str], settings: dict[str, Any]) -> Path:
    """The folder with parts of all names, and of its config's targets, replaced; and its settings."""
    found = safetensors.torch.load((folder / WEIGHTS).read_bytes())

    def new(name: str) -> str:
        for old, other in names.items():
            name = name.replace(old, other)
        return name

    (folder / WEIGHTS).write_bytes(safetensors.torch.save({new(name): t for name, t in found.items()}))
    config = json.loads((folder / CONFIG).read_text()) | settings
    config["target_modules"] = sorted(
        {new(f".{target}").removeprefix(".") for target in config["target_modules"]}
    )
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


_OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.class_embedding": "cls_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.position_embedding.weight": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "embeddings.patch_embeddings.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.bias": "patch_embed.proj.bias",
    "embeddings.patch_embedding.weight": "patch_embed.proj.weight",
    "embeddings.patch_embedding.bias": "patch_embed.proj.bias",
    "head.probe": "attn_pool.latent",
    "head.attention.out_proj.weight": "attn_pool.proj.weight",
    "head.attention.out_proj.bias": "attn_pool.proj.bias",
    "head.layernorm.weight": "attn_pool.norm.weight",
    "head.layernorm.bias": "attn_pool.norm.bias",
    "head.mlp.fc1.weight": "attn_pool.mlp.fc1.weight",
    "head.mlp.fc1.bias": "attn_pool.mlp.fc1.bias",
    "head.mlp.fc2.weight": "attn_pool.mlp.fc2.weight",
    "head.mlp.fc2.bias": "attn_pool.mlp.fc2.bias",
}


def frozen_of(model: Any, shapes: Collection[str]) -> dict[str, Tensor]:
    """A model's weights by our names, those that a backbone has."""
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    base = getattr(model, model.base_model_prefix, model) if hasattr(model, "classifier") else model
    base = getattr(base, "vision_model", base)
    gated = any(name.endswith("gate_proj.weight") for name in base.state_dict())
    for name, tensor in base.state_dict().items():
        path, _, kind = name.rpartition(".")
        site = peft_names.site_of(path, gated=gated)
        if name in _OUTSIDE:
            found[_OUTSIDE[name]] = tensor
        elif name.startswith("head.attention.in_proj"):
            width = tensor.shape[0] // 3
            found[f"attn_pool.q.{kind.removeprefix('in_proj_')}"] = tensor[:width]
            found[f"attn_pool.kv.{kind.removeprefix('in_proj_')}"] = tensor[width:]
        elif kind == "lambda1":
            found[f"blocks.{name.split('layer.')[1].split('.')[0]}.ls{path[-1]}.gamma"] = tensor
        elif site is not None and site.part is None:
            found[f"{site.module}.{kind}"] = tensor
        elif site is not None and site.part is not None:
            parts.setdefault(f"{site.module}.{kind}", {})[site.part] = tensor
    for name, of_one in parts.items():
        if name.endswith("qkv.bias"):
            of_one.setdefault(1, torch.zeros_like(of_one[0]))
        found[name] = torch.cat([of_one[part] for part in sorted(of_one)])
    return {name: tensor for name, tensor in _positions(found).items() if name in shapes}


def _positions(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Class token and positions as timm has them."""
    if "cls_token" in found:
        found["cls_token"] = found["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in found:
        found["pos_embed"] = found["pos_embed"].reshape(1, -1, found["pos_embed"].shape[-1])
    if "reg_token" in found and "pos_embed" in found:
        found["cls_token"] = found["cls_token"] + found["pos_embed"][:, :1]
        found["pos_embed"] = found["pos_embed"][:, 1:]
    return {name: tensor.clone() for name, tensor in found.items()}
