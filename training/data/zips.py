"""Zip files whose members are read without unpacking, by paths as a folder would have them.

Zips name their files in many ways: with backslashes, with `./` in front, in UTF-8 that is not declared.
"""

import stat
import struct
import threading
import unicodedata
import zipfile
from pathlib import PurePosixPath, PureWindowsPath

from image_files.clutter import is_clutter
from image_files.folder import Below
from image_files.formats import HEAD_BYTES, is_image, named_as_image
from image_files.left_out import CLUTTER, NOT_AN_IMAGE, LeftOut
from model_store.format.zips import UNREADABLE
from petl_vit.errors import InvalidInput, NotFound, near
from training.data.records import INSIDE, listed

_UTF8 = 0x800
_UNICODE_PATH = 0x7075
_LINK = "a link inside the zip"
_REPLACED = "replaced by a later file of the same path"


class Zip:
    """An open zip file whose members can be read from several threads.

    Attributes:
        legacy: A name that is neither ASCII nor UTF-8 and was taken for the zip standard's code page 437.

    Raises:
        InvalidInput: It cannot be read, or a path in it leads outside.
    """

    def __init__(self, path: str, field: str) -> None:
        self._path, self._field = path, field
        self._lock = threading.Lock()  # ZipFile counts its open members without one
        try:
            self._zip = zipfile.ZipFile(path)
        except UNREADABLE as error:
            raise self._unreadable(f"{path} cannot be read", error) from error
        self.legacy: str | None = None
        self._folders: set[str] = set()
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._replaced: list[str] = []
        for info in self._zip.infolist():
            self._add(info)

    def below(self, folder: str, left_out: LeftOut) -> tuple[str, Below]:
        """A folder inside, as it is spelt there with a slash at its end, and what lies below it.

        Args:
            folder: Empty for all of the zip.
            left_out: Takes what is not among the images.

        Raises:
            NotFound: There is no such folder.
        """
        root = self._spelt(folder)
        folders = sorted(path.removeprefix(root) for path in self._folders if path.startswith(root))
        files = sorted(path.removeprefix(root) for path in self._members if path.startswith(root))
        for path in self._replaced:
            if path.startswith(root):
                left_out.add(_REPLACED, path.removeprefix(root))
        _count_clutter([*folders, *files], left_out)
        images = []
        for path in files:
            if _first_clutter(path) is None and self._is_image(root + path, left_out, path):
                images.append(path)
        return root, Below([path for path in folders if path and _first_clutter(path) is None], images)

    def read(self, path: str) -> bytes:
        """The bytes of one file.

        Raises:
            InvalidInput: It is damaged, encrypted or compressed in an unknown way.
        """
        return self._read(path, -1)

    def _read(self, path: str, size: int) -> bytes:
        try:
            with self._lock, self._zip.open(self._members[path]) as file:
                return file.read(size)
        except UNREADABLE as error:
            raise self._unreadable("the file cannot be read", error) from error

    def _add(self, info: zipfile.ZipInfo) -> None:
        name = self._name(info).replace("\\", "/")
        steps = [step for step in name.split("/") if step not in ("", ".")]
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or ".." in steps:
            raise InvalidInput(
                f"{self._path} holds a file with the unsafe path {name!r}",
                field=self._field,
                remedy="make the zip again from inside the folder",
            )
        is_folder = name.endswith("/")
        for end in range(1, len(steps) + is_folder):
            self._folders.add("/".join(steps[:end]))
        if not is_folder and steps:
            path = "/".join(steps)
            if path in self._members:
                self._replaced.append(path)
            self._members[path] = info

    def _name(self, info: zipfile.ZipInfo) -> str:
        if info.flag_bits & _UTF8 or info.filename.isascii():
            return info.filename
        stored = _unicode_path(info.extra)
        if stored is not None:
            return stored
        try:
            return info.filename.encode("cp437").decode("utf-8")
        except UnicodeError:
            self.legacy = self.legacy or info.filename
            return info.filename

    def _spelt(self, folder: str) -> str:
        wanted = [step for step in folder.replace("\\", "/").split("/") if step not in ("", ".")]
        if not wanted:
            return ""
        normal = unicodedata.normalize("NFC", "/".join(wanted))
        for path in sorted(self._folders):
            if unicodedata.normalize("NFC", path) == normal:
                return f"{path}/"
        raise NotFound(
            f"{self._path} has no folder {folder!r}",
            field=self._field,
            remedy=near("/".join(wanted), self._folders) or f"it has {listed(sorted(self._folders))}",
        )

    def _is_image(self, member: str, left_out: LeftOut, path: str) -> bool:
        if stat.S_ISLNK(self._members[member].external_attr >> 16):
            left_out.add(_LINK, path)
            return False
        if named_as_image(path.rpartition("/")[2]):
            return True
        try:
            image = is_image(self._read(member, HEAD_BYTES))
        except InvalidInput:
            return True  # it might be one; whoever reads it says why it is not
        if not image:
            left_out.add(NOT_AN_IMAGE, path)
        return image

    def _unreadable(self, what: str, error: Exception) -> InvalidInput:
        return InvalidInput(
            f"{what} ({error})", field=self._field, remedy=f"check {self._path} or make it again"
        )


def origin_of(path: str, root: str) -> str:
    """What a folder inside a zip is called."""
    return f"{path}{INSIDE}{root.rstrip('/')}" if root else path


def _first_clutter(path: str) -> str | None:
    """The path up to its first step that is clutter."""
    steps = path.split("/")
    for place, step in enumerate(steps):
        if is_clutter(step):
            return "/".join(steps[: place + 1])
    return None


def _count_clutter(paths: list[str], left_out: LeftOut) -> None:
    """Counts a folder of clutter once, as in a folder that is not zipped."""
    for path in sorted({clutter for path in paths if path and (clutter := _first_clutter(path)) is not None}):
        left_out.add(CLUTTER, path.rpartition("/")[2])


def _unicode_path(extra: bytes) -> str | None:
    """The name in Info-ZIP's extra field for names in UTF-8."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == _UNICODE_PATH and extra[4:5] == b"\1":
            return extra[9 : 4 + size].decode(errors="replace")
        extra = extra[4 + size :]
    return None
