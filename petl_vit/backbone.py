"""The record of a backbone besides its tensors. Imports no torch."""

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

CLASS_AND_MEAN: Final = "token+avg"
"""The value of the option `global_pool` for the class token with the mean of the patches behind it.

timm has none: to it, the class token alone is pooled.
"""

NORM_EPS = "norm_eps"
"""The option for the epsilon of all LayerNorms, where weights were trained with another than timm's.

timm has none: its modules have the architecture's.
"""

Options = dict[str, bool | int | float | str | None]


class BackboneConfig(BaseModel):
    """What is needed, besides the tensors, to run a backbone. Part of its digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = Field(description="timm's model name, e.g. vit_base_patch16_224")
    options: Options = Field(
        default_factory=dict,
        description=f"further keyword arguments of timm.create_model; global_pool may be {CLASS_AND_MEAN}, "
        f"and {NORM_EPS} is the epsilon of all LayerNorms",
    )
    image_size: int = Field(ge=14, le=1024, description="native image size, pixels")
    pos_embed_antialias: bool = Field(
        default=True, description="antialias when the position embedding is resampled (bicubic)"
    )
    mean: tuple[float, float, float] = Field(description="default normalisation, of pixels in [0, 1]")
    std: tuple[float, float, float]

    @property
    def timm_options(self) -> Options:
        """The options as timm takes them."""
        options = {name: value for name, value in self.options.items() if name != NORM_EPS}
        if options.get("global_pool") == CLASS_AND_MEAN:
            options["global_pool"] = "token"
        return options
