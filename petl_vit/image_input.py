"""How a task's images reach the backbone: the record that `petl_vit.preprocess` carries out. No torch."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

MAX_PIXELS = 50_000_000
"""Most pixels of a decoded image unless another limit is given: those of a camera, not of a bomb."""

MAX_SIDE = 65_535
"""Most pixels of a side, as JPEG has them: what scales a longer one takes a gigabyte for its weights."""

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Resize = Literal["squash", "crop", "squash-crop"]
Interpolation = Literal["bicubic", "bilinear"]


class Preprocess(BaseModel):
    """How a task turns an image into the model's input; interpolation is always antialiased.

    Attributes:
        resize: `squash` to a square, whatever the aspect ratio; `crop` the centre of the image whose shorter
            side is image_size / crop_ratio; `squash-crop` the centre of a square of that side.
        interpolation: Is not written where it is bicubic, as in every task before there was a choice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(ge=14, le=1024)
    resize: Resize = "squash"
    crop_ratio: float = Field(default=1.0, ge=0.1, le=1)
    interpolation: Interpolation = "bicubic"
    mean: tuple[_Finite, _Finite, _Finite]
    std: tuple[_Positive, _Positive, _Positive]

    @property
    def side(self) -> int:
        """What the image's sides (`crop`: its shorter side) are scaled to, before anything is cut off."""
        return self.image_size if self.resize == "squash" else round(self.image_size / self.crop_ratio)

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = write(self)
        if fields["interpolation"] == "bicubic":
            del fields["interpolation"]
        return fields
