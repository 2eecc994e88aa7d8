"""Sets of Hugging Face's `datasets`: by name (`hf:NAME`), or from a folder that it saved.

hf:uoft-cs/cifar10    hf:org/name/config    hf:org/name::train    hf:./folder    folder::test
"""

import importlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from image_files.clutter import is_clutter
from image_files.formats import named_as_image
from image_files.left_out import LeftOut
from model_store.names import class_name
from petl_vit.errors import InvalidInput, NotFound
from training.data.listed import Listing, read_file
from training.data.reading import Reading
from training.data.records import INSIDE, Dataset, listed
from training.data.source_parts import JOIN, SourceParts, by_usual_names
from training.data.tables import LABEL_COLUMNS, chosen_column, class_names, label_text

PREFIX = "hf:"
_SAVED = ("dataset_dict.json", "state.json")
_NO_LABEL = "without a label"
_NO_IMAGE = "without an image"
_SHOWN = 8


def is_saved(folder: str) -> bool:
    """Whether `datasets` saved a folder, or it holds Parquet files, and no images, as sets of the Hub do."""
    if any(os.path.isfile(os.path.join(folder, name)) for name in _SAVED):
        return True
    try:
        below = [entry.path for entry in os.scandir(folder) if entry.is_dir() and not is_clutter(entry.name)]
        names = [name for place in (folder, *below) for name in os.listdir(place)]
    except OSError:  # whoever reads the folder says why it cannot be listed
        return False
    return any(map(_is_parquet, names)) and not any(map(named_as_image, names))


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


class HubSet:
    """A set of `datasets`, with its splits.

    Args:
        source: `hf:NAME`, `hf:NAME/CONFIG`, `hf:FOLDER` or a folder; without a split.
    """

    def __init__(self, source: str, field: str, reading: Reading) -> None:
        self.origin, self._field, self._reading = source, field, reading
        self._where = source.removeprefix(PREFIX)
        self._package = _package(source, field)

    @cached_property
    def _splits(self) -> dict[str, Any]:
        found = self._opened()
        if isinstance(found, self._package.DatasetDict):
            return dict(found)
        return {"": found}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self._splits if name)

    def parts(self) -> SourceParts | None:
        return by_usual_names(self.origin, self.names)

    def dataset(self, names: Sequence[str]) -> Dataset:
        several = [self._splits[name] for name in names or [""]]
        rows = several[0] if len(several) == 1 else self._package.concatenate_datasets(several)
        origin = f"{self.origin}{INSIDE}{JOIN.join(names)}" if names else self.origin
        image, label = self._columns(rows.features, origin)
        feature, left_out = rows.features[label], LeftOut()
        declared = tuple(map(class_name, getattr(feature, "names", None) or ()))
        texts = {
            f"row {number}": label_text(value, declared, f"row {number} of {origin}", self._field)
            for number, value in enumerate(rows[label], start=1)
        }
        files = self._files(rows, image, origin)
        self._check_labels(texts, origin, left_out)
        classes = declared or class_names(text for text in texts.values() if text)
        place = {name: number for number, name in enumerate(classes)}

        def read(row: str) -> bytes:
            cell = files[int(row.removeprefix("row ")) - 1][image] or {}
            if cell.get("bytes"):
                return bytes(cell["bytes"])
            if cell.get("path"):
                return read_file(Path(cell["path"]), self._field)
            raise InvalidInput(f"the row is {_NO_IMAGE}", field=self._field)

        listing = Listing(
            origin=origin,
            classes=classes,
            labels={row: place[text] for row, text in texts.items() if text},
            read=read,
            left_out=left_out,
            named=False,
        )
        return listing.dataset(self._field, self._reading)

    def _check_labels(self, texts: dict[str, str], origin: str, left_out: LeftOut) -> None:
        if not texts:
            raise InvalidInput(f"{origin} has no rows", field=self._field, remedy="name another part")
        bad = [row for row, text in texts.items() if not text]
        if len(bad) == len(texts) or (bad and not self._reading.skip_bad):
            more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
            raise InvalidInput(
                f"{len(bad)} of {len(texts)} rows of {origin} have no label: {', '.join(bad[:_SHOWN])}{more}",
                field=self._field,
                remedy="name another part, or go on without them by --skip-bad"
                if len(bad) < len(texts)
                else "name another part, or another --label-column",
            )
        for row in bad:
            left_out.add(_NO_LABEL, row)

    def _columns(self, features: Any, origin: str) -> tuple[str, str]:
        """The columns of images and labels: those of that kind, else by their names.

        Raises:
            InvalidInput: There is none, or there are several to choose from.
        """
        names, reading = [*features], self._reading
        image = reading.image_column or self._only(features, self._package.Image, "image", origin)
        if image is None:
            raise InvalidInput(
                f"{origin} has no column of images; its columns are {listed(names)}",
                field=self._field,
                remedy="choose a set of images, or name the column with --image-column",
            )
        label = reading.label_column or self._only(features, self._package.ClassLabel, "label", origin)
        return (
            chosen_column(names, image, (), "image", origin, self._field),
            chosen_column(names, label or "", LABEL_COLUMNS, "label", origin, self._field),
        )

    def _only(self, features: Any, kind: Any, what: str, origin: str) -> str | None:
        """The one column of a kind, or the one of them that is called `what`; None where there is none."""
        found = [name for name, feature in features.items() if isinstance(feature, kind)]
        if len(found) > 1 and what not in found:
            raise InvalidInput(
                f"{origin} has several columns of the kind {what}: {listed(found)}",
                field=self._field,
                remedy=f"name one with --{what}-column",
            )
        return what if what in found else next(iter(found), None)

    def _files(self, rows: Any, image: str, origin: str) -> Any:
        """The column of images as it is stored: each the bytes or the path of a file."""
        try:
            return rows.select_columns([image]).cast_column(image, self._package.Image(decode=False))
        except (TypeError, ValueError, NotImplementedError) as error:
            raise InvalidInput(
                f"the column {image!r} of {origin} holds no images ({error})",
                field=self._field,
                remedy="name another one with --image-column",
            ) from error

    def _opened(self) -> Any:
        """The set, or its splits by name.

        Raises:
            NotFound: There is no such set, or not for this user.
            InvalidInput: It cannot be opened, a configuration has to be named, or the network is away.
        """
        package, where = self._package, self._where
        try:
            if os.path.isdir(where):
                saved = any(os.path.isfile(os.path.join(where, name)) for name in _SAVED)
                return package.load_from_disk(where) if saved else package.load_dataset(where)
            owner_and_name, config = _config_of(where)
            return package.load_dataset(owner_and_name, config)
        except package.exceptions.DatasetNotFoundError as error:
            raise NotFound(
                f"Hugging Face has no data set {where!r} that can be read from here ({_first_line(error)})",
                field=self._field,
                remedy="check its name and the network; a gated set needs `hf auth login`",
            ) from error
        except Exception as error:  # of the file system, the network, Arrow and the set's own script
            raise InvalidInput(
                f"{self.origin} cannot be opened ({_first_line(error)})",
                field=self._field,
                remedy=f"name the configuration as in {self.origin}/NAME"
                if "Config name is missing" in str(error)
                else "check its name and the network, or save it with save_to_disk and name the folder",
            ) from error


def _config_of(where: str) -> tuple[str, str | None]:
    """`org/name/config` and `org/name` as the set's name and its configuration."""
    steps = where.split("/")
    return ("/".join(steps[:2]), steps[2]) if len(steps) == 3 else (where, None)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _package(source: str, field: str) -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise InvalidInput(
            f"{source} needs the package datasets", field=field, remedy="pip install 'corolla[datasets]'"
        ) from error
