"""All families: whose names a table of tensors has, and what a config of transformers describes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from model_store.sources.families import clip, dinov2, dinov3, perception, siglip, vit
from model_store.sources.families.described import Described
from model_store.sources.families.names import Names
from petl_vit.errors import Unsupported

ALL: tuple[Names, ...] = (
    vit.TRANSFORMERS,
    dinov2.TRANSFORMERS,
    dinov2.TRANSFORMERS_GATED,
    dinov3.TRANSFORMERS,
    dinov3.TRANSFORMERS_GATED,
    clip.TRANSFORMERS,
    siglip.TRANSFORMERS,
    clip.OPEN_CLIP,
    perception.ORIGINAL,
    dinov2.ORIGINAL,
    dinov3.ORIGINAL,
    dinov3.ORIGINAL_GATED,
)
ANCHORS = tuple(dict.fromkeys(names.anchor for names in ALL if names.anchor is not None))
"""Tensors of which every ViT by the names of another library has one."""

_TOWERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model", "siglip2": "siglip2_vision_model"}
"""Models with text, whose `vision_config` is that of the image encoder."""
_READERS: dict[str, Callable[[str, dict[str, object]], Described]] = {
    kind: family.read for family in (vit, dinov2, dinov3, clip, siglip) for kind in family.DEFAULTS
}


def of(names: Iterable[str]) -> Names | None:
    """The names that most of a table of tensors has; None where it has timm's."""
    known = list(names)
    counts = [(table.converts(known), table) for table in ALL]
    most, table = max(counts, key=lambda row: row[0])
    return table if most else None


def ours(tensors: Mapping[str, Tensor], what: str) -> tuple[dict[str, Tensor], Names | None]:
    """Tensors by our names, and the names that they had; None where these were timm's.

    Raises:
        Unsupported: Its rotary positions are not timm's.
    """
    found = dict(tensors)
    if any(name.startswith("rope_embed.") or name.endswith(dinov3.MASK) for name in found):
        found = dinov3.without_masked_biases(found, what)
    table = of(found)
    if table is None:
        return {n: t for n, t in found.items() if not n.startswith(dinov3.PERIODS)}, None
    return table.ours(found), table


def described(config: dict[str, Any]) -> Described:
    """What a config of transformers describes.

    Raises:
        Unsupported: It is of a model that the forward does not compute.
        InvalidInput: A field is not what it should be.
    """
    kind = config["model_type"]
    tower = _TOWERS.get(kind)
    if tower is not None:
        vision = config.get("vision_config")
        config = vision if isinstance(vision, dict) else {}
        kind = str(config.get("model_type", tower))
    if kind not in _READERS:
        known = ", ".join(_READERS)
        raise Unsupported(
            f"it is a {kind!r} of transformers, and those that are converted are {known}",
            field="source",
            remedy="save timm's version of the model, or import it from timm's hub by name",
        )
    return _READERS[kind](kind, config)
