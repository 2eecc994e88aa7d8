"""ViT, DeiT, ViTMAE and ViTMSN of transformers. Source: transformers.models.vit and their kin."""

from model_store.sources.families.described import Described, Fields, described
from model_store.sources.families.names import Names, both

TRANSFORMERS = Names(
    title="a ViT of transformers",
    anchor="embeddings.patch_embeddings.projection.weight",
    layers=("encoder.layer.{}", "layers.{}"),
    outside={
        "cls_token": (("embeddings.cls_token",),),
        "pos_embed": (("embeddings.position_embeddings",),),
        **both("patch_embed.proj", ("embeddings.patch_embeddings.projection",)),
        **both("norm", ("layernorm",)),
    },
    inside={
        **both("norm1", ("layernorm_before",)),
        **both(
            "attn.qkv",
            ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
            ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        ),
        **both("attn.proj", ("attention.output.dense",), ("attention.o_proj",)),
        **both("norm2", ("layernorm_after",)),
        **both("mlp.fc1", ("intermediate.dense",), ("mlp.fc1",)),
        **both("mlp.fc2", ("output.dense",), ("mlp.fc2",)),
    },
    unused=("embeddings.mask_token", "pooler."),
)

EPS = 1e-12
"""The epsilon of LayerNorms where a config of transformers does not say another."""

_PLAIN = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": EPS,
    "image_size": 224,
    "patch_size": 16,
    "qkv_bias": True,
}
DEFAULTS = {"vit": _PLAIN, "deit": _PLAIN, "vit_mae": _PLAIN, "vit_msn": _PLAIN | {"layer_norm_eps": 1e-6}}
"""What a config means that leaves a field out, by model_type."""
_NAMED = r"vit_(tiny|small|base|large|huge)_patch\d+_\d+"


def read(kind: str, config: dict[str, object]) -> Described:
    """What a config of transformers describes.

    Raises:
        Unsupported: An MLP, or sizes of images, that the forward does not compute.
        InvalidInput: A field is not what it should be.
    """
    fields = Fields(config, DEFAULTS[kind])
    return described(
        _NAMED,
        fields,
        hidden=fields.count("intermediate_size"),
        qkv_bias=fields.flag("qkv_bias"),
        normalised="imagenet" if kind in ("vit_mae", "vit_msn") else None,
    )
