"""Labelled images as one frozen record, and the checks that every source of them shares.

Images stay encoded where they are until they are asked for.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from petl_vit.errors import InvalidInput
from petl_vit.image_input import Preprocess

INSIDE = "::"
"""Between a file and the part of it that is meant."""

FINGERPRINT = 16
"""Hexadecimal digits of an image's fingerprint."""


class Images(Protocol):
    """A sequence of images that are decoded when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor:
        """Image `index`, uint8 [3,H,W]."""

    def sized(self, index: int, spec: Preprocess) -> Tensor:
        """Image `index` at the model's size, uint8 [3,S,S]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Some images of another sequence, in any order."""

    images: Images
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Tensor:
        return self.images[self.indices[index]]

    def sized(self, index: int, spec: Preprocess) -> Tensor:
        return self.images.sized(self.indices[index], spec)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Images, their labels, and what the labels mean.

    Attributes:
        name: Where it comes from, for people.
        classes: Class names; a label is an index into them.
        images: Lazy, uint8 [3,H,W] each, sizes may differ.
        labels: int64 [n].
        digest: sha256 of the content: the same images under the same class names have the same
            digest, in a folder or in a zip, in whatever order they are listed.
        fingerprints: One for each image, equal for equal images: see `fingerprint`.
        left_out: How many files of its source are not among the images, by reason.
    """

    name: str
    classes: tuple[str, ...]
    images: Images
    labels: Tensor
    digest: str
    fingerprints: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


def check_classes(
    origin: str,
    classes: Sequence[str],
    counts: Sequence[int],
    field: str,
    left_out: str = "",
    note: Callable[[str], None] | None = None,
) -> None:
    """Refuse a set with a class of which it has no images, or with one class only.

    Args:
        note: Called with what is missing, where no more than some image is needed.

    Raises:
        InvalidInput: It is such a set; names the class.
    """
    reasons = f" (left out: {left_out})" if left_out else ""
    absent = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if note is not None and len(absent) < len(classes):
        if absent:
            note(f"{origin} has no images of {len(absent)} of its classes: {listed(absent)}")
        return
    for name in absent:
        raise InvalidInput(
            f"the class {name!r} of {origin} has no images{reasons}",
            field=field,
            remedy="add images of it, or take the class away",
        )
    if len(classes) < 2:
        raise InvalidInput(
            f"{origin} has one class only, {listed(classes)}",
            field=field,
            remedy="a task needs images of two classes or more",
        )


def fingerprint(data: bytes | memoryview) -> str:
    """The first digits of the sha256 of an image as it is stored.

    Args:
        data: A file's bytes, or an array's shape and pixels.
    """
    return hashlib.sha256(data).hexdigest()[:FINGERPRINT]


def content_digest(content: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


def listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown or "none"
