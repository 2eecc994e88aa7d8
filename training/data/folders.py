"""Datasets in a folder with one sub-folder per class, or in a zip of one."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from image_files.folder import Below, images_below
from image_files.left_out import LeftOut
from model_store.names import check_printable, class_name, printable
from petl_vit.errors import InvalidInput
from training.data.listed import Listing, Read, read_file
from training.data.parts import are_parts, class_root, part_names, repeated_folders
from training.data.reading import Reading
from training.data.records import INSIDE, Dataset, listed
from training.data.zips import Zip, origin_of

_BESIDE = "beside the class folders"


def load_folder(root: Path, field: str, reading: Reading) -> Dataset:
    def read(path: str) -> bytes:
        return read_file(root / path, field)

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
        listing = Listing(
            origin=self._origin,
            classes=classes,
            labels={path: classes.index(class_of[_top(path)]) for path in self._paths},
            read=self._read,
            left_out=self._left_out,
        )
        dataset = listing.dataset(self._field, self._reading)
        self._notes(classes)
        return dataset

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
        if self._origin.lower().endswith(".zip") and any("/train800" in f"/{path}" for path in self._paths):
            return "unpack it: the lists of VTAB-1K are read from a folder"
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

    def _notes(self, classes: Sequence[str]) -> None:
        """Tells what may not be as it was meant."""
        note = self._reading.reporter.note
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
