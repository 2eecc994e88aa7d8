"""Files that commands read and write."""

from pathlib import Path

import pytest

from corolla import files
from petl_vit.errors import Conflict, InvalidInput, NotFound


def test_a_file_is_written_with_its_folder_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    files.write(path, b"data", overwrite=False)

    assert files.read(path) == b"data"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_exists_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(Conflict, match="--overwrite"):
        files.write(path, b"new", overwrite=False)
    assert path.read_bytes() == b"old"
    files.write(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"


def test_a_folder_is_written_only_where_all_of_its_files_are_free(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"old")
    with pytest.raises(Conflict):
        files.write_folder(tmp_path, {"a": b"1", "b": b"2"}, overwrite=False)
    assert not (tmp_path / "a").exists()
    files.write_folder(tmp_path, {"a": b"1", "b": b"2"}, overwrite=True)
    assert (tmp_path / "b").read_bytes() == b"2"


def test_a_path_that_cannot_be_used_is_refused_by_its_field(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist") as missing:
        files.read(tmp_path / "absent", "image")
    assert missing.value.field == "image"
    with pytest.raises(InvalidInput, match="cannot be read"):
        files.read(tmp_path)
    with pytest.raises(InvalidInput, match="is a folder"):
        files.write(tmp_path, b"", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="cannot be read or written") as unwritable:
        files.write(tmp_path / "file" / "below", b"", overwrite=False)
    assert unwritable.value.field == "out"
