"""SigLIP and SigLIP 2 for images of one size, of transformers. Source: transformers.models.siglip."""

from model_store.sources.families import clip
from model_store.sources.families.described import Described, Fields, described
from model_store.sources.families.names import Names, both

TRANSFORMERS = Names(
    title="a SigLIP of transformers",
    anchor="embeddings.patch_embedding.weight",
    layers=("encoder.layers.{}",),
    outside={
        "pos_embed": (("embeddings.position_embedding.weight",),),
        **both("patch_embed.proj", ("embeddings.patch_embedding",)),
        **both("norm", ("post_layernorm",)),
        "attn_pool.latent": (("head.probe",),),
        "attn_pool.qkv.weight": (("head.attention.in_proj_weight",),),
        "attn_pool.qkv.bias": (("head.attention.in_proj_bias",),),
        **both("attn_pool.proj", ("head.attention.out_proj",)),
        **both("attn_pool.norm", ("head.layernorm",)),
        **both("attn_pool.mlp.fc1", ("head.mlp.fc1",)),
        **both("attn_pool.mlp.fc2", ("head.mlp.fc2",)),
    },
    inside=clip.INSIDE,
    flat={"pos_embed": 1},
    unused=("embeddings.position_ids",),
    classifier_reads="the mean of the patches",
)

DEFAULTS = {
    "siglip_vision_model": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "image_size": 224,
        "patch_size": 16,
        "vision_use_head": True,
    }
}
"""What a config means that leaves a field out, by model_type."""
_NAMED = r"vit_\w+_patch\d+_siglip(_gap)?_\d+"


def read(kind: str, config: dict[str, object]) -> Described:
    """What a config of transformers describes.

    Raises:
        Unsupported: An MLP, or sizes of images, that the forward does not compute.
        InvalidInput: A field is not what it should be.
    """
    fields = Fields(config, DEFAULTS[kind])
    pooled = fields.flag("vision_use_head")
    return described(
        _NAMED,
        fields,
        hidden=fields.count("intermediate_size"),
        pool="map" if pooled else "avg",
        normalised="half",
        notes=() if pooled else ("it has no attention pooling, so the mean of the patches is pooled",),
    )
