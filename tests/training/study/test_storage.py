"""The storage of a sweep's trials, and what is told of one that cannot be read."""

from pathlib import Path

import pytest

from petl_vit.errors import InvalidInput
from training.study.storage import closed, opened


@pytest.mark.parametrize("url", ["shared", "nosql://host/x", "sqlite:////nowhere/at/all.db"])
def test_a_storage_that_cannot_be_opened_is_told(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidInput, match="storage"):
        opened(url, tmp_path)


def test_a_damaged_file_of_a_sweep_is_named_with_the_remedy_and_restart_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "trials.db"
    path.write_bytes(b"no database at all, but long enough to be read as one" * 20)
    with pytest.raises(InvalidInput) as caught:
        opened(None, tmp_path)
    assert str(path.resolve()) in caught.value.problem
    assert "file is not a database" in caught.value.problem
    assert "--restart" in (caught.value.remedy or "")
    closed(opened(None, tmp_path, restart=True))
    closed(opened(None, tmp_path))


def test_restart_leaves_a_damaged_storage_that_was_named_alone(tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    path.write_bytes(before := b"no database at all, but long enough to be read as one" * 20)
    with pytest.raises(InvalidInput, match="is not a database"):
        opened(f"sqlite:///{path}", tmp_path, restart=True)
    assert path.read_bytes() == before
