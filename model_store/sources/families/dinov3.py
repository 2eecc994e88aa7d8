"""DINOv3 and what is made like it: of transformers, and of facebookresearch/dinov3.

Sources: transformers.models.dinov3_vit; dinov3.models.vision_transformer.
"""

import torch
from torch import Tensor

from model_store.sources.families import dinov2
from model_store.sources.families.described import Described, Fields, described
from model_store.sources.families.names import Names, Table, both
from petl_vit.errors import Unsupported

_OUTSIDE: Table = {
    "cls_token": (("embeddings.cls_token",),),
    "reg_token": (("embeddings.register_tokens",),),
    **both("patch_embed.proj", ("embeddings.patch_embeddings",)),
    **both("norm", ("norm",)),
}
_ATTENTION: Table = {
    **{
        name: spelling for name, spelling in dinov2.TRANSFORMERS.inside.items() if not name.startswith("mlp.")
    },
    **both("attn.qkv", ("attention.q_proj", "attention.k_proj", "attention.v_proj")),
    **both("attn.proj", ("attention.o_proj",)),
}
TRANSFORMERS = Names(
    title="a DINOv3 of transformers",
    anchor="embeddings.patch_embeddings.weight",
    layers=("layer.{}", "model.layer.{}"),
    outside=_OUTSIDE,
    inside=_ATTENTION | both("mlp.fc1", ("mlp.up_proj",)) | both("mlp.fc2", ("mlp.down_proj",)),
    unused=("embeddings.mask_token",),
    keys_without_bias=True,
)
TRANSFORMERS_GATED = Names(
    title="a DINOv3 of transformers with a gated MLP",
    anchor=TRANSFORMERS.anchor,
    layers=TRANSFORMERS.layers,
    outside=_OUTSIDE,
    inside=_ATTENTION
    | both("mlp.fc1", ("mlp.gate_proj", "mlp.up_proj"))
    | both("mlp.fc2", ("mlp.down_proj",)),
    unused=TRANSFORMERS.unused,
    keys_without_bias=True,
)
_UNUSED = ("mask_token", "rope_embed.", "projectors.", "local_cls_norm.", ".bias_mask")
ORIGINAL = Names(
    title="a DINOv3 of facebookresearch/dinov3",
    anchor=None,
    layers=("blocks.{}",),
    outside={"reg_token": (("storage_tokens",),)},
    inside=both("mlp.fc1", ("mlp.fc1",)) | both("mlp.fc2", ("mlp.fc2",)),
    unused=_UNUSED,
)
ORIGINAL_GATED = Names(
    title="a DINOv3 of facebookresearch/dinov3 with a gated MLP",
    anchor=None,
    layers=ORIGINAL.layers,
    outside=ORIGINAL.outside,
    inside=both("mlp.fc1", ("mlp.w1", "mlp.w2")) | both("mlp.fc2", ("mlp.w3",)),
    unused=_UNUSED,
)
PERIODS, MASK = "rope_embed.periods", ".bias_mask"
_THETA = 100.0

DEFAULTS = {
    "dinov3_vit": {
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "image_size": 224,
        "patch_size": 16,
        "rope_theta": _THETA,
        "query_bias": True,
        "key_bias": False,
        "value_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
        "use_gated_mlp": False,
        "num_register_tokens": 0,
    }
}
"""What a config means that leaves a field out, by model_type."""
_NAMED = r"vit_\w+_patch16_dinov3(_qkvb)?"


def read(kind: str, config: dict[str, object]) -> Described:
    """What a config of transformers describes.

    Raises:
        Unsupported: An MLP, positions, or sizes of images, that the forward does not compute.
        InvalidInput: A field is not what it should be.
    """
    fields = Fields(config, DEFAULTS[kind])
    theta = fields.number("rope_theta")
    if theta != _THETA:
        raise Unsupported(
            f"its rotary positions have rope_theta {theta:g}, and timm's have {_THETA:g}",
            field="rope_theta",
            remedy="use a DINOv3 of 100; no other would have the angles that it was trained with",
        )
    for name in ("proj_bias", "mlp_bias"):
        if not fields.flag(name):
            problem = f"{name} is false, and timm's linears have biases"
            raise Unsupported(problem, field=name, remedy="use a DINOv3 whose linears have biases")
    gated = fields.flag("use_gated_mlp")
    if gated and fields.value("hidden_act") not in ("silu", "swish"):
        problem = f"its gated MLP has {fields.value('hidden_act')!r} and not 'silu'"
        raise Unsupported(problem, field="hidden_act", remedy="use a DINOv3 with SwiGLU")
    return described(
        _NAMED,
        fields,
        hidden=fields.count("intermediate_size"),
        gated=gated,
        qkv_bias=any(fields.flag(f"{of}_bias") for of in ("query", "key", "value")),
        register_tokens=fields.count("num_register_tokens", least=0),
        normalised="imagenet",
        notes=("the class token is pooled, as in DINOv3's own code; timm's pools the mean of the patches",),
    )


def without_masked_biases(tensors: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """Tensors by the original names, with the biases of keys as zeros where a mask says so.

    Raises:
        Unsupported: The periods of its rotary positions are not timm's.
    """
    periods = tensors.get(PERIODS)
    if periods is not None and periods.dim() == 1:
        steps = torch.arange(len(periods), dtype=torch.float32)
        known = _THETA ** (steps / len(periods))
        if not torch.allclose(periods.float(), known, rtol=1e-2):  # upstream has them in bfloat16
            raise Unsupported(
                "the periods of its rotary positions are not 100^(4i/d), as timm's are",
                field=what,
                remedy="use a DINOv3 with pos_embed_rope_base=100",
            )
    masked = {name.removesuffix("_mask") for name in tensors if name.endswith(MASK)}
    return {name: _without_keys(t) if name in masked and t.dim() else t for name, t in tensors.items()}


def _without_keys(bias: Tensor) -> Tensor:
    third = len(bias) // 3
    return torch.cat([bias[:third], torch.zeros_like(bias[third : 2 * third]), bias[2 * third :]])
