"""How the images of a set are read: which are too large, and what happens to those that cannot be used."""

from dataclasses import dataclass, field

from petl_vit.image_input import MAX_PIXELS
from training.progress import Reporter, Silent


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the reader of a set may do.

    Attributes:
        max_pixels: Most pixels of a decoded image.
        skip_bad: Leave out images that cannot be used, instead of refusing the set.
        reporter: Told how far it is, and what is left out.
    """

    max_pixels: int = MAX_PIXELS
    skip_bad: bool = False
    reporter: Reporter = field(default_factory=Silent)
