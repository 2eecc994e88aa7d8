"""DINOv2, with and without registers: of transformers, and of facebookresearch/dinov2.

Sources: transformers.models.dinov2, .dinov2_with_registers; dinov2.models.vision_transformer.
"""

from model_store.sources.families import vit
from model_store.sources.families.described import Described, Fields, described
from model_store.sources.families.names import Names, Table, both

_NORMS: Table = {
    **both("norm1", ("norm1",)),
    **both("norm2", ("norm2",)),
}
_ATTENTION: Table = {
    **{name: spellings for name, spellings in vit.TRANSFORMERS.inside.items() if name.startswith("attn.")},
    "ls1.gamma": (("layer_scale1.lambda1",),),
    "ls2.gamma": (("layer_scale2.lambda1",),),
}
_OUTSIDE: Table = vit.TRANSFORMERS.outside | {"reg_token": (("embeddings.register_tokens",),)}

TRANSFORMERS = Names(
    title="a DINOv2 of transformers",
    anchor=vit.TRANSFORMERS.anchor,
    layers=("encoder.layer.{}", "layers.{}"),
    outside=_OUTSIDE,
    inside=_NORMS | _ATTENTION | both("mlp.fc1", ("mlp.fc1",)) | both("mlp.fc2", ("mlp.fc2",)),
    unused=("embeddings.mask_token",),
)
TRANSFORMERS_GATED = Names(
    title="a DINOv2 of transformers with a gated MLP",
    anchor=vit.TRANSFORMERS.anchor,
    layers=TRANSFORMERS.layers,
    outside=_OUTSIDE,
    inside=_NORMS
    | _ATTENTION
    | both("mlp.fc1", ("mlp.weights_in",), ("mlp.gate_proj", "mlp.up_proj"))
    | both("mlp.fc2", ("mlp.weights_out",), ("mlp.down_proj",)),
    unused=("embeddings.mask_token",),
)
_SAME = ("attn.qkv", "attn.proj")
ORIGINAL = Names(
    title="a DINOv2 of facebookresearch/dinov2",
    anchor=None,
    layers=("blocks.{}", "blocks.*.{}"),
    outside={"reg_token": (("register_tokens",),)},
    inside={
        **_NORMS,
        **{name: rows for site in _SAME for name, rows in both(site, (site,)).items()},
        **{f"ls{number}.gamma": ((f"ls{number}.gamma",),) for number in (1, 2)},
        **both("mlp.fc1", ("mlp.w12",), ("mlp.fc1",)),
        **both("mlp.fc2", ("mlp.w3",), ("mlp.fc2",)),
    },
    unused=("mask_token",),
)
"""As its training writes it, blocks may be in chunks (`blocks.0.11.norm1`)."""

_PLAIN = vit.DEFAULTS["vit"] | {
    "layer_norm_eps": 1e-6,
    "patch_size": 14,
    "mlp_ratio": 4,
    "use_swiglu_ffn": False,
}
DEFAULTS = {
    "dinov2": _PLAIN,
    "dinov2_with_registers": _PLAIN | {"patch_size": 16, "num_register_tokens": 4},
}
_NAMED = r"vit_\w+_patch14_(reg4_)?dinov2"


def read(kind: str, config: dict[str, object]) -> Described:
    """What a config of transformers describes.

    Raises:
        Unsupported: An MLP, or sizes of images, that the forward does not compute.
        InvalidInput: A field is not what it should be.
    """
    fields = Fields(config, DEFAULTS[kind])
    hidden = int(fields.count("hidden_size") * fields.number("mlp_ratio"))
    if fields.flag("use_swiglu_ffn"):  # two thirds, as a gated MLP has three matrices
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
    registers = fields.count("num_register_tokens") if kind == "dinov2_with_registers" else 0
    classifies = "Dinov2ForImageClassification" in str(config.get("architectures", "")) or (
        "Dinov2WithRegistersForImageClassification" in str(config.get("architectures", ""))
    )
    return described(
        _NAMED,
        fields,
        hidden=hidden,
        gated=fields.flag("use_swiglu_ffn"),
        qkv_bias=fields.flag("qkv_bias"),
        register_tokens=registers,
        pool="token+avg" if classifies else "token",
        normalised="imagenet",
        antialias=kind == "dinov2_with_registers",
        notes=(
            "its classifier reads the class token and the mean of the patches, so these are pooled; "
            "--option global_pool=token pools the class token alone",
        )
        if classifies
        else (),
    )
