"""Datasets of decoded pixels: an npz file, or arrays."""

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.names import class_name
from petl_vit.errors import InvalidInput
from petl_vit.image_input import Preprocess
from petl_vit.preprocess import from_array, resize
from training.data.reading import Reading
from training.data.records import Dataset, check_classes, content_digest, fingerprint, listed


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pixels:
    """Decoded images of one size, uint8 [n,H,W] or [n,H,W,C]."""

    array: NDArray[np.uint8]
    origin: str

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int, /) -> Tensor:
        return from_array(self.array[index], field=f"{self.origin}[{index}]")

    def sized(self, index: int, spec: Preprocess) -> Tensor:
        return resize(self[index], spec)


def load_npz(path: str, part: str, field: str, reading: Reading) -> Dataset:
    arrays = _read_npz(path, field)
    pairs = [(f"x_{part}", f"y_{part}"), (f"{part}_images", f"{part}_labels")]
    if part == "train":
        pairs = [("images", "labels"), ("x", "y"), *pairs]
    pair = next(((x, y) for x, y in pairs if x in arrays and y in arrays), None)
    if pair is None:
        raise InvalidInput(
            f"{path} has no images and labels of the part {part!r}; its arrays are {listed(sorted(arrays))}",
            field=field,
            remedy=f"store them as {pairs[0][0]} and {pairs[0][1]}",
        )
    images, labels = arrays[pair[0]], arrays[pair[1]]
    _check_pixels(images, f"{path}[{pair[0]}]", field)
    indices, classes = _read_labels(labels, arrays.get("classes"), len(images), f"{path}[{pair[1]}]", field)
    note = reading.reporter.note if reading.measured else None
    return from_pixels(path, images, indices, classes, field, note)


def _read_npz(path: str, field: str) -> dict[str, NDArray[Any]]:
    # The zip check comes first because numpy takes any other file for a pickle, and says so. What it
    # raises on damaged files has no common class: ValueError, OSError, zlib.error, TokenError, ...
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is not an npz file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except Exception as error:
        raise InvalidInput(
            f"{path} cannot be read ({error})",
            field=field,
            remedy="write it with numpy.savez, without objects",
        ) from error


def _check_pixels(images: NDArray[Any], what: str, field: str) -> None:
    if images.dtype != np.uint8:
        nan = " with NaN" if images.dtype.kind == "f" and bool(np.isnan(images).any()) else ""
        raise InvalidInput(
            f"{what} is {images.dtype}{nan}, not uint8",
            field=field,
            remedy="scale the values to 0..255 as uint8",
        )
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3, 4)):
        raise InvalidInput(
            f"{what} has the shape {list(images.shape)}",
            field=field,
            remedy="it is [n, height, width] or [n, height, width, channels] with 1, 3 or 4 channels",
        )
    if images.size == 0:
        raise InvalidInput(f"{what} has no images", field=field, remedy="store at least one image per class")


def _read_labels(
    labels: NDArray[Any], names: NDArray[Any] | None, n: int, what: str, field: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if labels.dtype.kind not in "iu":
        nan = " with NaN" if labels.dtype.kind == "f" and bool(np.isnan(labels).any()) else ""
        raise InvalidInput(
            f"{what} is {labels.dtype}{nan}, not integer", field=field, remedy="store class indices as int64"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (n,):
        raise InvalidInput(
            f"{what} has the shape {list(labels.shape)} for {n} images",
            field=field,
            remedy="give one label per image",
        )
    if names is None:
        values, indices = np.unique(labels, return_inverse=True)
        return indices.astype(np.int64), tuple(str(value) for value in values)
    spelt = [*map(class_name, names.tolist())] if names.dtype.kind == "U" and names.ndim == 1 else []
    if len(set(spelt) - {""}) != len(names):
        raise InvalidInput(
            f"the classes beside {what} are not a list of different names",
            field=field,
            remedy="store classes as a one-dimensional array of unique, non-empty strings",
        )
    if labels.min() < 0 or labels.max() >= len(names):
        raise InvalidInput(
            f"{what} has values from {labels.min()} to {labels.max()} for {len(names)} classes",
            field=field,
            remedy=f"labels go from 0 to {len(names) - 1}",
        )
    return labels.astype(np.int64), tuple(spelt)


def from_pixels(
    name: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    field: str,
    note: Callable[[str], None] | None = None,
) -> Dataset:
    """A dataset of decoded images; with a `note`, classes may be without images."""
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    check_classes(name, classes, counts, field, note=note)
    images = np.ascontiguousarray(images)
    pixels = hashlib.sha256(images.data).hexdigest()
    shape = f"{list(images.shape[1:])}".encode()
    return Dataset(
        name=name,
        classes=classes,
        images=_Pixels(array=images, origin=name),
        labels=torch.from_numpy(labels),
        digest=content_digest([list(images.shape), pixels, [classes[label] for label in labels]]),
        fingerprints=tuple(fingerprint(shape + image.tobytes()) for image in images),
    )
