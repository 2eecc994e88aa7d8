"""Datasets in a folder with one sub-folder per class, or in a zip of one."""

import hashlib
import os
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NoReturn

import torch
from torch import Tensor

from petl_vit.errors import InvalidInput, NotFound, near
from petl_vit.preprocess import decode
from training.data.records import FINGERPRINT, INSIDE, Dataset, check_classes, content_digest, listed

_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp"})

_CLUTTER = "__MACOSX"

_PARTS = frozenset({"train", "val", "valid", "validation", "test"})


@dataclass(frozen=True, kw_only=True, eq=False)
class _Files:
    """Encoded images, read by path from a folder or a zip."""

    paths: tuple[str, ...]
    read: Callable[[str], bytes]
    origin: str

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Tensor:
        path = self.paths[index]
        return decode(self.read(path), field=f"{self.origin}/{path}")


class _Zip:
    """An open zip file whose members can be read from several threads."""

    def __init__(self, path: str, field: str) -> None:
        self._path = path
        self._field = field
        self._lock = threading.Lock()  # ZipFile counts its open members without one
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise self._unreadable(path, error) from error

    def names(self) -> list[str]:
        """The paths of its files and, ending in a slash, folders; a path that leads outside is refused."""
        names = sorted(set(self._zip.namelist()))
        for name in names:
            if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or ".." in _steps(name):
                raise InvalidInput(
                    f"{self._path} holds a file with the unsafe path {name!r}",
                    field=self._field,
                    remedy="make the zip again from inside the folder",
                )
        return names

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        try:
            with self._lock:
                return self._zip.read(name)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
            # RuntimeError: encrypted; NotImplementedError, one of its kind: an unknown compression.
            raise self._unreadable(f"{self._path}{INSIDE}{name}", error) from error

    def _unreadable(self, what: str, error: Exception) -> InvalidInput:
        return InvalidInput(
            f"{what} cannot be read ({error})", field=self._field, remedy="check the zip or make it again"
        )


def load_folder(root: Path, field: str) -> Dataset:
    def read(path: str) -> bytes:
        try:
            return (root / path).read_bytes()
        except OSError as error:
            raise InvalidInput(
                f"{root.as_posix()}/{path} cannot be read ({error.strerror})",
                field=field,
                remedy="check the file and its permissions",
            ) from error

    return _image_folder(root.as_posix().rstrip("/"), _walk(root, field), read, field)


def _walk(root: Path, field: str) -> list[str]:
    """The class folders, ending in a slash, and all files below them; links are followed to classes only."""

    def refuse(error: OSError) -> NoReturn:
        raise InvalidInput(
            f"{error.filename} cannot be listed ({error.strerror})",
            field=field,
            remedy="check its permissions",
        ) from error

    try:
        classes = [entry for entry in root.iterdir() if entry.is_dir()]
    except OSError as error:
        refuse(error)
    paths = [f"{folder.name}/" for folder in classes]
    for top in classes:
        for folder, _, files in os.walk(top, onerror=refuse):
            paths += [(Path(folder) / name).relative_to(root).as_posix() for name in files]
    return paths


def load_zip(path: str, folder: str, field: str) -> Dataset:
    archive = _Zip(path, field)
    root = "".join(f"{step}/" for step in _steps(folder))
    names = archive.names()
    inside = [name.removeprefix(root) for name in names if name.startswith(root) and name != root]
    if not inside and root:
        folders = {f"{parent}" for name in names for parent in PurePosixPath(name).parents} - {"."}
        raise NotFound(
            f"{path} has no folder {folder!r}",
            field=field,
            remedy=near(root.rstrip("/"), folders) or f"it has {listed(sorted(folders))}",
        )
    origin = f"{path}{INSIDE}{root.rstrip('/')}" if root else path
    return _image_folder(origin, inside, lambda name: archive.read(root + name), field)


def _image_folder(origin: str, paths: Iterable[str], read: Callable[[str], bytes], field: str) -> Dataset:
    """A dataset of `class/.../image` paths, relative to `origin`; folders end in a slash."""
    by_class: dict[str, list[str]] = {}
    for path in paths:
        steps = _steps(path)
        if any(step.startswith(".") or step == _CLUTTER for step in steps):
            continue
        if len(steps) > 1 or path.endswith("/"):
            members = by_class.setdefault(steps[0], [])
            if not path.endswith("/") and PurePosixPath(path).suffix.lower() in _EXTENSIONS:
                members.append(path)
    classes = tuple(sorted(by_class))
    _check_folder(origin, by_class, field)
    check_classes(origin, classes, [len(by_class[name]) for name in classes], field)
    files = [(path, label) for label, name in enumerate(classes) for path in sorted(by_class[name])]
    contents = [hashlib.sha256(read(path)).hexdigest() for path, _ in files]
    digests = [[path, classes[label], sha] for (path, label), sha in zip(files, contents, strict=True)]
    return Dataset(
        name=origin,
        classes=classes,
        images=_Files(paths=tuple(path for path, _ in files), read=read, origin=origin),
        labels=torch.tensor([label for _, label in files], dtype=torch.int64),
        digest=content_digest(sorted(digests)),
        fingerprints=tuple(sha[:FINGERPRINT] for sha in contents),
    )


def _check_folder(origin: str, by_class: Mapping[str, Sequence[str]], field: str) -> None:
    formats = ", ".join(sorted(extension[1:] for extension in _EXTENSIONS))
    if not by_class:
        raise InvalidInput(
            f"{origin} has no class sub-folders",
            field=field,
            remedy="put the images of each class in a folder of its own, named after the class",
        )
    if not any(by_class.values()):
        raise InvalidInput(f"{origin} has no images", field=field, remedy=f"images end in {formats}")
    nested = {folder for folder, paths in by_class.items() if any(len(_steps(path)) > 2 for path in paths)}
    if nested == set(by_class) and (len(nested) == 1 or nested <= _PARTS):
        folder = "train" if "train" in nested else min(nested)
        separator = INSIDE if origin.lower().endswith(".zip") else "/"
        raise InvalidInput(
            f"{origin} has no class sub-folders but {listed(sorted(nested))}, with sub-folders of its own",
            field=field,
            remedy=f"if those are the classes, write {origin}{separator}{folder}",
        )


def _steps(path: str) -> list[str]:
    return [step for step in path.replace("\\", "/").split("/") if step not in ("", ".")]
