"""The file of a Unix socket: whose it is, and who may use it. No torch, no gRPC."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from petl_vit.errors import InvalidInput

_WAIT_S = 2.0


def check(path: Path) -> None:
    """Checks that a server may listen on a path: nothing is there, or a socket that nobody answers.

    Raises:
        InvalidInput: A server answers there, it is another kind of file, or its folder is not one.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        _check_folder(path.parent)
        return
    except OSError as error:
        raise _refused(f"cannot listen on {path}: {_reason(error)}", "choose another path") from error
    if not stat.S_ISSOCK(mode):
        raise _refused(f"{path} is there and is not a socket", "choose another path, or remove the file")
    if _answers(path):
        raise _refused(
            f"a server listens on {path} already", "stop it first, or choose another path for this one"
        )
    _check_folder(path.parent)


@contextmanager
def claim(path: Path, *, mode: int) -> Iterator[None]:
    """The time of binding a socket: the file of a server that was killed is removed, and others are kept out.

    Args:
        mode: Who may connect, as in chmod.

    Raises:
        InvalidInput: As `check` does.
    """
    check(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _refused(
            f"cannot replace {path}, which nobody answers: {_reason(error)}", "remove it"
        ) from error
    # Between being bound and a chmod, others could connect; the mask counts from the first moment.
    before = os.umask(0o777 & ~mode)
    try:
        yield
    finally:
        os.umask(before)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise _refused(f"{folder} is not a folder", "make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _refused(f"{folder} is not writable", "choose another path, or change the folder's rights")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_WAIT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True  # it is somebody's, who is busy or does not let us in
    return True


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _refused(problem: str, remedy: str) -> InvalidInput:
    return InvalidInput(problem, field="host", remedy=remedy)
