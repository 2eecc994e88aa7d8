"""Models that the forward does not compute, known by the names of their tensors."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from petl_vit.errors import Unsupported


class _Other(NamedTuple):
    names: re.Pattern[str]
    what: str
    why: str


_HIERARCHY = "its patches are merged from stage to stage"
_INSIDE = (
    _Other(
        re.compile(
            r"(?:.*\.)?(stages\.\d+\.(blocks|layers)\.\d+\.(conv_dw|dwconv)|stages\.\d+\.\d+\.dwconv)\..*"
        ),
        "a ConvNeXt",
        "its blocks are convolutions",
    ),
    _Other(
        re.compile(r"(?:.*\.)?layers\.\d+\.(blocks\.\d+\..*relative_position|blocks\.\d+\..*logit_scale).*"),
        "a Swin Transformer",
        _HIERARCHY,
    ),
    _Other(
        re.compile(r"(?:.*\.)?(relative_position_bias_table|relative_position_index|rel_pos_bias\..*)"),
        "a BEiT or of its kin",
        "its attention adds trained biases of relative positions",
    ),
    _Other(
        re.compile(r".*\.(mlp\.ffn_ln|attn\.inner_attn_ln|mlp\.norm|attn\.norm)\.weight"),
        "an EVA-02 or of its kin",
        "its MLP or attention has a norm before the last linear",
    ),
    _Other(
        re.compile(r"(?:.*\.)?(preprocessor\.patchifier\..*|rms_norm1\.weight|norm_1\.weight)"),
        "an AIMv2",
        "its norms are RMSNorms",
    ),
    _Other(
        re.compile(r".*\.attn\.(q_norm|k_norm)\.weight"),
        "a ViT with norms of queries and keys",
        "the forward has none",
    ),
    _Other(
        re.compile(r"(?:.*\.)?rope\.freqs"),
        "a ViT with mixed rotary positions",
        "its frequencies are trained",
    ),
    _Other(
        re.compile(r"(?:.*\.)?(dist_token|embeddings\.distillation_token)"),
        "a distilled DeiT",
        "it has a second token for its teacher's answer",
    ),
)
_WITHOUT_VIT = (
    _Other(
        re.compile(r"(?:.*\.)?(word_embeddings|embed_tokens|wte|token_embedding|tok_embeddings)\.weight"),
        "a model of text",
        "it takes no images",
    ),
    _Other(re.compile(r"(?:.*\.)?layer1\.0\.conv1\.weight"), "a ResNet", "its blocks are convolutions"),
)


def check(names: Iterable[str], what: str, *, has_vit: bool) -> None:
    """Refuses the tensors of a model that is known, and not computed.

    Args:
        what: The file, for the error.
        has_vit: Whether a ViT's patch embedding is among them.

    Raises:
        Unsupported: It is one; says what it is and why.
    """
    for name in names:
        for other in (*_INSIDE, *(() if has_vit else _WITHOUT_VIT)):
            if other.names.fullmatch(name):
                raise Unsupported(
                    f"it is {other.what} ({name[:60]}), and not a plain ViT: {other.why}",
                    field=what,
                    remedy="docs/backbones.md lists the families that are read",
                )
