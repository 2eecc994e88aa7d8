"""Datasets of encoded images that are read one by one, wherever a list of them comes from.

Every image is checked first; those that cannot be used are named, or left out and counted.
"""

import os
import stat
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from image_files.left_out import LeftOut
from model_store.names import printable
from petl_vit.errors import InvalidInput
from petl_vit.image_input import Preprocess
from petl_vit.preprocess import decode, sized
from training.data.reading import Reading
from training.data.records import FINGERPRINT, Dataset, check_classes, content_digest
from training.data.usable import usable

_SHOWN = 3

Read = Callable[[str], bytes]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Images by path, each with its class.

    Attributes:
        origin: Where they come from, for people.
        classes: Their names, in order.
        labels: The place of each image's class among them, by the image's path.
        read: The bytes of a path; raises InvalidInput.
        left_out: What of the source is not among the images.
        named: Whether paths are part of the content; numbers of rows are not.
        absent: Whether classes may be without images.
    """

    origin: str
    classes: tuple[str, ...]
    labels: Mapping[str, int]
    read: Read
    left_out: LeftOut
    named: bool = True
    absent: bool = False

    def dataset(self, field: str, reading: Reading) -> Dataset:
        """The images as a dataset; notes say what is left out, and which image is in several classes.

        Raises:
            InvalidInput: Images cannot be used, or a class has none.
        """
        self._check_classes([*self.labels], field, reading)
        digests = usable(
            [*self.labels],
            self.read,
            origin=self.origin,
            left_out=self.left_out,
            field=field,
            reading=reading,
        )
        self._check_classes([*digests], field, reading, told=True)
        if self.left_out:
            reading.reporter.note(f"left out of {self.origin}: {self.left_out}")
        self._note_contrary(digests, reading)
        content = {
            path: [_spelt(path) if self.named else "", self.classes[self.labels[path]], digest]
            for path, digest in digests.items()
        }
        paths = sorted(digests, key=lambda path: (self.labels[path], path if self.named else digests[path]))
        return Dataset(
            name=self.origin,
            classes=self.classes,
            images=_Files(
                paths=tuple(paths), read=self.read, origin=self.origin, max_pixels=reading.max_pixels
            ),
            labels=torch.tensor([self.labels[path] for path in paths], dtype=torch.int64),
            digest=content_digest(sorted(content.values())),
            fingerprints=tuple(digests[path][:FINGERPRINT] for path in paths),
            left_out=self.left_out.counts,
        )

    def _check_classes(self, paths: list[str], field: str, reading: Reading, *, told: bool = False) -> None:
        counts = [0] * len(self.classes)
        for path in paths:
            counts[self.labels[path]] += 1
        absent = self.absent or reading.measured
        note = (reading.reporter.note if told else lambda text: None) if absent else None
        check_classes(self.origin, self.classes, counts, field, str(self.left_out), note)

    def _note_contrary(self, digests: Mapping[str, str], reading: Reading) -> None:
        """Tells of one image in several classes."""
        first: dict[str, str] = {}
        pairs = []
        for path, digest in sorted(digests.items()):
            other = first.setdefault(digest, path)
            if self.labels[other] != self.labels[path]:
                pairs.append(f"{printable(other)} = {printable(path)}")
        if pairs:
            more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
            shown = ", ".join(pairs[:_SHOWN]) + more
            reading.reporter.note(f"{self.origin} has the same image in several classes: {shown}")


def read_file(file: Path, field: str) -> bytes:
    """The bytes of an image file.

    Raises:
        InvalidInput: It is not a file, or cannot be read.
    """
    if "\0" in str(file):
        raise InvalidInput("no file has a path with a zero byte", field=field)
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # reading a pipe or a device might never end
            raise InvalidInput("it is not a file", field=field, remedy="remove it")
        return file.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"the file cannot be read ({error.strerror})",
            field=field,
            remedy="check the file and its permissions",
        ) from error


@dataclass(frozen=True, kw_only=True, eq=False)
class _Files:
    """Encoded images, read by path."""

    paths: tuple[str, ...]
    read: Read
    origin: str
    max_pixels: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Tensor:
        return decode(self._data(index), max_pixels=self.max_pixels, field=self._name(index))

    def sized(self, index: int, spec: Preprocess) -> Tensor:
        return sized(self._data(index), spec, max_pixels=self.max_pixels, field=self._name(index))

    def _data(self, index: int) -> bytes:
        try:
            return self.read(self.paths[index])
        except InvalidInput as error:
            raise error.about(self._name(index)) from error

    def _name(self, index: int) -> str:
        return f"{self.origin}/{printable(self.paths[index])}"


def _spelt(path: str) -> str:
    """A path as every system spells it."""
    return unicodedata.normalize("NFC", path)
