"""The Perception Encoder. Source: facebookresearch/perception_models, core.vision_encoder.pe."""

from model_store.sources.families import clip
from model_store.sources.families.names import Names, both

ORIGINAL = Names(
    title="a Perception Encoder of facebookresearch/perception_models",
    anchor=clip.OPEN_CLIP.anchor,
    layers=clip.OPEN_CLIP.layers,
    outside={
        **clip.OPEN_CLIP.outside,
        "attn_pool.latent": (("attn_pool.probe",),),
        "attn_pool.qkv.weight": (("attn_pool.attn.in_proj_weight",),),
        "attn_pool.qkv.bias": (("attn_pool.attn.in_proj_bias",),),
        **both("attn_pool.proj", ("attn_pool.attn.out_proj",)),
        **both("attn_pool.norm", ("attn_pool.layernorm",)),
        **both("attn_pool.mlp.fc1", ("attn_pool.mlp.c_fc",)),
        **both("attn_pool.mlp.fc2", ("attn_pool.mlp.c_proj",)),
    },
    inside=clip.OPEN_CLIP.inside,
    flat=clip.OPEN_CLIP.flat,
    unused=clip.OPEN_CLIP.unused,
)
