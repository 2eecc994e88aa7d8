"""The images below a folder of a user's. Links are followed; clutter and what is not an image are named."""

import os
import stat
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from image_files.clutter import is_clutter
from image_files.formats import HEAD_BYTES, is_image, named_as_image
from image_files.left_out import CLUTTER, LINKED_AGAIN, NOT_AN_IMAGE, LeftOut

Refuse = Callable[[OSError], NoReturn]


class Below(NamedTuple):
    """What lies below a folder, as paths relative to it with `/` between their steps.

    Attributes:
        folders: Those that are not clutter.
        images: Files that are images by content, or were meant to be by name: in the order of their paths,
            those of a folder before those of its sub-folders.
    """

    folders: list[str]
    images: list[str]


def images_below(root: str, left_out: LeftOut, refuse: Refuse) -> Below:
    """What lies below a folder.

    Every folder is read once, so that circles of links end, and no image is there twice.

    Args:
        left_out: Takes what is not among the images.
        refuse: Called with the error of a folder that cannot be listed.
    """
    return _Walk(root, left_out, refuse).below()


def could_be_image(path: str) -> bool:
    """Whether a file is an image by name or content; one that cannot be read might be."""
    if named_as_image(os.path.basename(path)):
        return True
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe or a device might never end
            return False
        with open(path, "rb") as file:
            return is_image(file.read(HEAD_BYTES))
    except OSError:
        return True


class _Walk:
    """Real folders come before linked ones, so that an image has its own path where it has one."""

    def __init__(self, root: str, left_out: LeftOut, refuse: Refuse) -> None:
        self._root, self._left_out, self._refuse = root, left_out, refuse
        self._read: set[tuple[int, int]] = set()
        self._links: deque[str] = deque()
        self._folders, self._images = list[str](), list[str]()

    def below(self) -> Below:
        self._visit("")
        while self._links:
            self._visit(self._links.popleft())
        return Below(sorted(self._folders), sorted(self._images, key=_place))

    def _visit(self, start: str) -> None:
        """Reads a folder, and its sub-folders but those that are links."""
        for path, names, files in os.walk(os.path.join(self._root, start), onerror=self._refuse):
            folder = os.path.relpath(path, self._root).replace(os.sep, "/")
            prefix = "" if folder == "." else f"{folder}/"
            if not self._is_new(path):
                self._left_out.add(LINKED_AGAIN, folder)
                names.clear()
                continue
            folders = sorted(name for name in names if not self._clutter(name))
            links = [name for name in folders if os.path.islink(os.path.join(path, name))]
            names[:] = [name for name in folders if name not in links]
            self._folders += [prefix + name for name in folders]
            self._links += [prefix + name for name in links]
            for name in sorted(files):
                self._file(prefix + name, name)

    def _is_new(self, path: str) -> bool:
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino)
        if identity in self._read:
            return False
        self._read.add(identity)
        return True

    def _file(self, path: str, name: str) -> None:
        if self._clutter(name):
            return
        if could_be_image(os.path.join(self._root, path)):
            self._images.append(path)
        else:
            self._left_out.add(NOT_AN_IMAGE, path)

    def _clutter(self, name: str) -> bool:
        clutter = is_clutter(name)
        if clutter:
            self._left_out.add(CLUTTER, name)
        return clutter


def _place(path: str) -> list[tuple[bool, str]]:
    *folders, name = path.split("/")
    return [*((True, folder) for folder in folders), (False, name)]
