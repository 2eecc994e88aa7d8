"""How images of a new task reach the backbone, and the transforms of the study's experiments. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from model_store.format.records import TaskSpec
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import InvalidInput, near
from petl_vit.image_input import Interpolation, Preprocess, Resize

Normalise = Literal["none", "half", "imagenet", "clip"]
Colour = tuple[float, float, float]

NORMALISATIONS: dict[str, tuple[Colour, Colour]] = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Mean and standard deviation that are taken from pixels in [0, 1]; `none` leaves them there."""

TRANSFORMS: dict[str, dict[str, Any]] = {
    "vtab": {"resize": "squash", "normalise": "none"},
    "vtab-normalised": {"resize": "squash", "normalise": "imagenet"},
    "cifar": {
        "resize": "crop",
        "crop_ratio": 0.875,
        "normalise": "half",
        "augment": "resized-crop-flip",
    },
    "resisc": {
        "resize": "crop",
        "crop_ratio": 0.875,
        "normalise": "half",
        "augment": "resized-crop-flips",
    },
    "clevr": {"resize": "squash", "interpolation": "bilinear", "normalise": "imagenet"},
    "imagenet-clip": {
        "resize": "squash-crop",
        "crop_ratio": 0.875,
        "normalise": "clip",
        "augment": "imagenet",
    },
}
"""The study's experiments by name. At 224 pixels a crop ratio of 0.875 is the centre of 256."""


def with_transform(name: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a user, None where there is none, with those of a transform in their places.

    Raises:
        InvalidInput: There is no such transform.
    """
    if name is None:
        return dict(given)
    if name not in TRANSFORMS:
        raise InvalidInput(
            f"there is no transform {name!r}",
            field="transform",
            remedy=near(name, TRANSFORMS) or f"choose one of {', '.join(TRANSFORMS)}",
        )
    return {field: TRANSFORMS[name].get(field) if v is None else v for field, v in given.items()}


@dataclass(frozen=True, kw_only=True)
class Input:
    """What a user asks of a task's images; None is the default of a new task, and whatever an old one has.

    Attributes:
        image_size: Pixels; by default the backbone's.
        resize: By default squash.
        crop_ratio: The share of the scaled image's side that a crop keeps; by default 1.
        interpolation: By default bicubic.
        normalise: By default the backbone's mean and standard deviation.
    """

    image_size: int | None = None
    resize: Resize | None = None
    crop_ratio: float | None = None
    interpolation: Interpolation | None = None
    normalise: Normalise | None = None

    def preprocess(self, backbone: BackboneConfig) -> Preprocess:
        """For a new task.

        Raises:
            InvalidInput: A crop ratio for images of which nothing is cropped.
        """
        if self.crop_ratio is not None and self.resize in (None, "squash"):
            raise InvalidInput(
                "nothing is cropped from images that are squashed",
                field="crop_ratio",
                remedy="choose --resize crop or squash-crop, or leave it out",
            )
        mean, std = backbone.mean, backbone.std
        if self.normalise is not None:
            mean, std = NORMALISATIONS[self.normalise]
        return Preprocess(
            image_size=self.image_size or backbone.image_size,
            resize=self.resize or "squash",
            crop_ratio=1.0 if self.crop_ratio is None else self.crop_ratio,
            interpolation=self.interpolation or "bicubic",
            mean=mean,
            std=std,
        )

    def check(self, spec: TaskSpec) -> None:
        """Refuse what a task, as it stands, would ignore.

        Raises:
            InvalidInput: The task has another; names both.
        """
        now = spec.preprocess
        current: dict[str, Any] = {
            "image_size": now.image_size,
            "resize": now.resize,
            "crop_ratio": now.crop_ratio,
            "interpolation": now.interpolation,
            "normalise": self.normalise,
        }
        if self.normalise is not None and NORMALISATIONS[self.normalise] != (now.mean, now.std):
            current["normalise"] = _called(now)
        for field, value in current.items():
            requested = getattr(self, field)
            if requested not in (None, value):
                raise InvalidInput(
                    f"task {spec.name!r} has {value}, not {requested}",
                    field=field,
                    remedy="leave it out, or choose another --task name",
                )


def _called(now: Preprocess) -> str:
    """The name of a normalisation, else its numbers."""
    for name, values in NORMALISATIONS.items():
        if values == (now.mean, now.std):
            return name
    return f"mean {list(now.mean)} and deviation {list(now.std)}"
