"""Datasets in a folder with one sub-folder per class, or in a zip of one."""

import os
import stat
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from image_files.folder import Below, images_below
from image_files.left_out import LeftOut
from model_store.names import check_printable, class_name, printable
from petl_vit.errors import InvalidInput
from petl_vit.image_input import Preprocess
from petl_vit.preprocess import decode, sized
from training.data.parts import are_parts, class_root, part_names, repeated_folders
from training.data.reading import Reading
from training.data.records import FINGERPRINT, INSIDE, Dataset, check_classes, content_digest, listed
from training.data.usable import usable
from training.data.zips import Zip, origin_of

_BESIDE = "beside the class folders"
_SHOWN = 3

Read = Callable[[str], bytes]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Files:
    """Encoded images, read by path from a folder or a zip."""

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


def load_folder(root: Path, field: str, reading: Reading) -> Dataset:
    def read(path: str) -> bytes:
        file = root / path
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

    def refuse(error: OSError) -> NoReturn:
        raise InvalidInput(
            f"{printable(str(error.filename))} cannot be listed ({error.strerror})",
            field=field,
            remedy="check its permissions",
        ) from error

    left_out = LeftOut()
    below = images_below(str(root), left_out, refuse)
    origin = root.as_posix().rstrip("/")
    return _ImageFolder(origin, below, read, left_out, field, reading).dataset()


def load_zip(path: str, folder: str, field: str, reading: Reading) -> Dataset:
    archive, left_out = Zip(path, field), LeftOut()
    root, below = archive.below(folder, left_out)
    if archive.legacy is not None:
        reading.reporter.note(
            f"{path} does not say how its names are written; {archive.legacy!r} may be wrong"
        )

    def read(name: str) -> bytes:
        return archive.read(root + name)

    return _ImageFolder(origin_of(path, root), below, read, left_out, field, reading).dataset()


class _ImageFolder:
    """A dataset of `class/.../image` paths, relative to `origin`."""

    def __init__(
        self, origin: str, below: Below, read: Read, left_out: LeftOut, field: str, reading: Reading
    ) -> None:
        self._origin, self._read, self._left_out = origin, read, left_out
        self._field, self._reading = field, reading
        self._folders = [folder for folder in below.folders if "/" not in folder]
        self._paths = [path for path in below.images if "/" in path]
        for path in below.images:
            if "/" not in path:
                left_out.add(_BESIDE, printable(path))

    def dataset(self) -> Dataset:
        self._check_layout()
        class_of = self._class_of()
        classes = tuple(sorted(set(class_of.values())))
        self._check_classes(classes, class_of, self._paths)
        digests = usable(
            self._paths,
            self._read,
            origin=self._origin,
            left_out=self._left_out,
            field=self._field,
            reading=self._reading,
        )
        self._check_classes(classes, class_of, [*digests])
        self._notes(classes)
        self._note_contrary(class_of, digests)
        files = sorted((classes.index(class_of[_top(path)]), path) for path in digests)
        content = [[_spelt(path), classes[label], digests[path]] for label, path in files]
        return Dataset(
            name=self._origin,
            classes=classes,
            images=_Files(
                paths=tuple(path for _, path in files),
                read=self._read,
                origin=self._origin,
                max_pixels=self._reading.max_pixels,
            ),
            labels=torch.tensor([label for label, _ in files], dtype=torch.int64),
            digest=content_digest(sorted(content)),
            fingerprints=tuple(digests[path][:FINGERPRINT] for _, path in files),
            left_out=self._left_out.counts,
        )

    def _check_layout(self) -> None:
        """Refuses folders that are not classes."""
        if not self._folders:
            raise InvalidInput(
                f"{self._origin} has no class sub-folders",
                field=self._field,
                remedy="put the images of each class in a folder of its own, named after the class",
            )
        if not self._paths:
            left_out = f" (left out: {self._left_out})" if self._left_out else ""
            raise InvalidInput(
                f"{self._origin} has no images in its sub-folders{left_out}",
                field=self._field,
                remedy="put the images of each class in a folder of its own, named after the class",
            )
        steps = [path.split("/") for path in self._paths]
        around = len(self._folders) == 1 and all(len(one) > 2 for one in steps)
        if around or are_parts(self._folders):
            what = "the folder" if around else "the parts"
            raise InvalidInput(
                f"{self._origin} has {what} {listed(sorted(self._folders))} where its classes should be",
                field=self._field,
                remedy=self._instead(class_root(steps)),
            )

    def _instead(self, root: Sequence[str] | None) -> str:
        if not root:
            return "put the images of each class in a folder of its own, named after the class"
        separator = INSIDE if self._origin.lower().endswith(".zip") else "/"
        return f"if its sub-folders are the classes, write {self._origin}{separator}{'/'.join(root)}"

    def _class_of(self) -> dict[str, str]:
        """The class of each folder; refuses folders whose names are one name."""
        class_of, folder_of = dict[str, str](), dict[str, str]()
        for folder in self._folders:
            name = class_name(check_printable(folder, self._field))
            if not name:
                raise InvalidInput(
                    f"a folder of {self._origin} has the invisible name {folder!a}",
                    field=self._field,
                    remedy="rename it",
                )
            if name in folder_of:
                twins = f"{folder_of[name]!a} and {folder!a}"
                raise InvalidInput(
                    f"the folders {twins} of {self._origin} are both named {name!r}",
                    field=self._field,
                    remedy="put their images into one of them, or rename one",
                )
            class_of[folder], folder_of[name] = name, folder
        return class_of

    def _check_classes(
        self, classes: Sequence[str], class_of: Mapping[str, str], paths: Sequence[str]
    ) -> None:
        counts = dict.fromkeys(classes, 0)
        for path in paths:
            counts[class_of[_top(path)]] += 1
        check_classes(self._origin, classes, [*counts.values()], self._field, str(self._left_out))

    def _note_contrary(self, class_of: Mapping[str, str], digests: Mapping[str, str]) -> None:
        """Tells of one image in several classes."""
        first: dict[str, str] = {}
        pairs = []
        for path, digest in sorted(digests.items()):
            other = first.setdefault(digest, path)
            if class_of[_top(other)] != class_of[_top(path)]:
                pairs.append(f"{printable(other)} = {printable(path)}")
        if pairs:
            more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
            shown = ", ".join(pairs[:_SHOWN]) + more
            self._reading.reporter.note(f"{self._origin} has the same image in several classes: {shown}")

    def _notes(self, classes: Sequence[str]) -> None:
        """Tells what may not be as it was meant."""
        note = self._reading.reporter.note
        if self._left_out:
            note(f"left out of {self._origin}: {self._left_out}")
        alike: dict[str, list[str]] = {}
        for name in classes:
            alike.setdefault(name.casefold(), []).append(name)
        for names in alike.values():
            if len(names) > 1:
                note(f"the classes {listed(names)} of {self._origin} differ in capitals only")
        parts = part_names(classes)
        if parts:
            note(f"{listed(parts)} of {self._origin}: taken for classes, named like parts of a data set")
        repeated = repeated_folders([path.split("/") for path in self._paths])
        if repeated:
            note(
                f"all classes of {self._origin} have the sub-folders {listed(repeated)}; "
                f"if those are the classes, name one folder, such as {self._origin}/{self._folders[0]}"
            )


def _top(path: str) -> str:
    return path.partition("/")[0]


def _spelt(path: str) -> str:
    """A path as every system spells it."""
    return unicodedata.normalize("NFC", path)
