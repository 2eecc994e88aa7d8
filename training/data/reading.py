"""How the images of a set are read: which are too large, and what happens to those that cannot be used."""

from dataclasses import dataclass, field
from typing import Protocol

from petl_vit.image_input import MAX_PIXELS
from training.progress import Reporter, Silent


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the reader of a set may do.

    Attributes:
        max_pixels: Most pixels of a decoded image.
        skip_bad: Leave out images that cannot be used, instead of refusing the set.
        image_column, label_column: Of a table or a set of Hugging Face; empty finds them by their names.
        measured: Whether something is measured on the images, and nothing trained. A set that was published
            in parts then means the one for tests, and classes may be without images, which is told.
        reporter: Told how far it is, and what is left out.
    """

    max_pixels: int = MAX_PIXELS
    skip_bad: bool = False
    image_column: str = ""
    label_column: str = ""
    measured: bool = False
    reporter: Reporter = field(default_factory=Silent)


class Asked(Protocol):
    """What a job says of reading."""

    @property
    def max_pixels(self) -> int: ...
    @property
    def skip_bad(self) -> bool: ...
    @property
    def image_column(self) -> str: ...
    @property
    def label_column(self) -> str: ...


def reading_of(asked: Asked, reporter: Reporter, *, measured: bool = False) -> Reading:
    """The reading that a job asks for."""
    return Reading(
        max_pixels=asked.max_pixels,
        skip_bad=asked.skip_bad,
        image_column=asked.image_column,
        label_column=asked.label_column,
        measured=measured,
        reporter=reporter,
    )
