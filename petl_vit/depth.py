"""How many blocks a ViT has. No torch, but for a ViT that is not listed."""

from petl_vit import plain_vits
from petl_vit.backbone import BackboneConfig


def depth_of(config: BackboneConfig) -> int:
    """The number of blocks of a backbone.

    Raises:
        Unsupported: It is not listed, and timm says that its forward is another.
    """
    depth = config.options.get("depth")
    if type(depth) is int:
        return depth
    listed = plain_vits.named(config.architecture)
    if listed is not None:
        return listed.depth
    from petl_vit.architecture import describe

    return describe(config).depth
