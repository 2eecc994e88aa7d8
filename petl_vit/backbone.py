"""The record of a backbone besides its tensors. Imports no torch."""

from pydantic import BaseModel, ConfigDict, Field


class BackboneConfig(BaseModel):
    """What is needed, besides the tensors, to run a backbone. Part of its digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = Field(description="timm's model name, e.g. vit_base_patch16_224")
    options: dict[str, bool | int | float | str | None] = Field(
        default_factory=dict, description="further keyword arguments of timm.create_model"
    )
    image_size: int = Field(ge=14, le=1024, description="native image size, pixels")
    pos_embed_antialias: bool = Field(
        default=True, description="antialias when the position embedding is resampled (bicubic)"
    )
    mean: tuple[float, float, float] = Field(description="default normalisation, of pixels in [0, 1]")
    std: tuple[float, float, float]
