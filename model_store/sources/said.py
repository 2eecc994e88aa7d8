"""What is known of a checkpoint besides its tensors: from its folder, its header or its containers."""

from dataclasses import dataclass, field

Triple = tuple[float, float, float]
Option = bool | int | float | str | None


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a checkpoint says of itself; None or empty where it does not.

    Attributes:
        architecture: timm's model name, perhaps with a tag.
        options: For timm.create_model.
        image_size: Native, pixels.
        eps: Of its LayerNorms.
        antialias: Whether its code antialiases when it resamples the position embedding.
        mean, std: Of the normalisation.
        whose: Where mean and std come from.
        classes: The classes of the head's rows.
        notes: What the user should know.
    """

    architecture: str | None = None
    options: dict[str, Option] = field(default_factory=dict)
    image_size: int | None = None
    eps: float | None = None
    antialias: bool | None = None
    mean: Triple | None = None
    std: Triple | None = None
    whose: str = "as the folder says"
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
