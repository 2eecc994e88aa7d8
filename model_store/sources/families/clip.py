"""The image encoders of CLIP: of transformers, and of OpenAI's code and open_clip.

Sources: transformers.models.clip; clip.model; open_clip.transformer.
"""

from model_store.sources.families.described import Described, Fields, described
from model_store.sources.families.names import Names, Table, both

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
INSIDE: Table = {
    **both("norm1", ("layer_norm1",)),
    **both("attn.qkv", QKV),
    **both("attn.proj", ("self_attn.out_proj",)),
    **both("norm2", ("layer_norm2",)),
    **both("mlp.fc1", ("mlp.fc1",)),
    **both("mlp.fc2", ("mlp.fc2",)),
}
"""The names inside a block of transformers' CLIP and SigLIP."""

TRANSFORMERS = Names(
    title="a CLIP of transformers",
    anchor="embeddings.patch_embedding.weight",
    layers=("encoder.layers.{}",),
    outside={
        "cls_token": (("embeddings.class_embedding",),),
        "pos_embed": (("embeddings.position_embedding.weight",),),
        "patch_embed.proj.weight": (("embeddings.patch_embedding.weight",),),
        **both("norm_pre", ("pre_layrnorm",)),
        **both("norm", ("post_layernorm",)),
    },
    inside=INSIDE,
    flat={"cls_token": 2, "pos_embed": 1},
    unused=("embeddings.position_ids",),
    classifier_reads="the mean of the patches before the last norm",
)
OPEN_CLIP = Names(
    title="a CLIP of OpenAI's code or open_clip",
    anchor="ln_pre.weight",
    layers=("transformer.resblocks.{}",),
    outside={
        "cls_token": (("class_embedding",),),
        "pos_embed": (("positional_embedding",),),
        "patch_embed.proj.weight": (("conv1.weight",),),
        **both("norm_pre", ("ln_pre",)),
        **both("norm", ("ln_post",)),
    },
    inside={
        **both("norm1", ("ln_1",)),
        "attn.qkv.weight": (("attn.in_proj_weight",),),
        "attn.qkv.bias": (("attn.in_proj_bias",),),
        **both("attn.proj", ("attn.out_proj",)),
        "ls1.gamma": (("ls_1.gamma",),),
        **both("norm2", ("ln_2",)),
        **both("mlp.fc1", ("mlp.c_fc",)),
        **both("mlp.fc2", ("mlp.c_proj",)),
        "ls2.gamma": (("ls_2.gamma",),),
    },
    flat={"cls_token": 2, "pos_embed": 1},
    unused=("proj",),
)

_PLAIN = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "image_size": 224,
    "patch_size": 32,
}
DEFAULTS = {"clip_vision_model": _PLAIN}
"""What a config means that leaves a field out, by model_type."""
_NAMED = r"vit_\w+_patch\d+_clip(_quickgelu)?_\d+"


def read(kind: str, config: dict[str, object]) -> Described:
    """What a config of transformers describes.

    Raises:
        Unsupported: An MLP, or sizes of images, that the forward does not compute.
        InvalidInput: A field is not what it should be.
    """
    fields = Fields(config, DEFAULTS[kind])
    return described(_NAMED, fields, hidden=fields.count("intermediate_size"), normalised="clip")


def read_open_clip(config: dict[str, object]) -> Described | None:
    """What `model_cfg` of open_clip describes; None where its image encoder is not of its own ViT.

    Raises:
        Unsupported, InvalidInput: As `read`.
    """
    tower = config.get("vision_cfg")
    if (
        not isinstance(tower, dict)
        or tower.get("timm_model_name")
        or not isinstance(tower.get("layers"), int)
    ):
        return None
    width, ratio = tower.get("width", 768), tower.get("mlp_ratio", 4.0)
    own = {
        "hidden_size": width,
        "num_hidden_layers": tower["layers"],
        "num_attention_heads": width // tower.get("head_width", 64) if isinstance(width, int) else None,
        "hidden_act": "quick_gelu" if config.get("quick_gelu") else "gelu",
        "image_size": tower.get("image_size", 224),
        "patch_size": tower.get("patch_size", 16),
    }
    fields = Fields({**own, "mlp_ratio": ratio}, _PLAIN)
    hidden = int(fields.count("hidden_size") * fields.number("mlp_ratio"))
    return described(_NAMED, fields, hidden=hidden, normalised="clip", antialias=True)
