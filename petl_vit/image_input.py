"""How a task's images reach the backbone: the record that `petl_vit.preprocess` carries out. No torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_PIXELS = 50_000_000
"""Most pixels of a decoded image unless another limit is given: those of a camera, not of a bomb."""

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Preprocess(BaseModel):
    """How a task turns an image into the model's input; interpolation is always bicubic, antialiased."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(ge=14, le=1024)
    resize: Literal["squash", "crop"] = "squash"
    crop_ratio: float = Field(default=1.0, ge=0.1, le=1)
    mean: tuple[_Finite, _Finite, _Finite]
    std: tuple[_Positive, _Positive, _Positive]
