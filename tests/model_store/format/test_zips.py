"""Zips whose directory lies about its size or place are refused by everything that reads zips."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.interchange import archive
from model_store.sources import checkpoint, zero_shot
from petl_vit.errors import CorollaError
from training.data.zips import Zip

FAR = 2**63 - 1


def lying(*, disks: int = 1, size: int | None = None) -> bytes:
    """A zip of one file whose directory is described by the records of large zips.

    Args:
        disks: How many files it is said to consist of; size: Of the directory; None for the true one.
    """
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as file:
        file.writestr("archive/data.pkl", b"one file")
    data = whole.getvalue()
    end = data.rindex(b"PK\5\6")
    true_size, start = struct.unpack("<2L", data[end + 12 : end + 20])
    said = true_size if size is None else size
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, said, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, disks)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:end] + record + locator + last


LIES = {
    "of several files": {"disks": 3},
    "larger than any file": {"size": FAR},
    "larger than the file": {"size": 2**40},
}
READERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": checkpoint.read,
    "archive": lambda path: archive.read(path.read_bytes()),
    "images": lambda path: Zip(str(path), "data"),
    "zero-shot": lambda path: zero_shot.from_file(path.rename(path.with_suffix(".npz")), None, width=8),
}


def test_without_a_lie_its_directory_is_read() -> None:
    with zipfile.ZipFile(io.BytesIO(lying())) as file:
        assert file.namelist() == ["archive/data.pkl"]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("lie", LIES)
def test_a_directory_that_lies_is_refused(lie: str, reader: str, tmp_path: Path) -> None:
    path = tmp_path / "file.zip"
    path.write_bytes(lying(**LIES[lie]))
    with pytest.raises(CorollaError):
        READERS[reader](path)
