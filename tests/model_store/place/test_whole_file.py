from pathlib import Path

import pytest

from model_store.place.whole_file import remove_drafts, write_whole


def test_a_file_appears_when_its_block_ends_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with write_whole(path) as draft:
        draft.write_bytes(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    with pytest.raises(FileNotFoundError), write_whole(path) as draft:
        draft.with_name("missing").read_bytes()
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("replace", "expected"), [(True, b"two"), (False, b"one")])
def test_a_file_that_stands_there_is_replaced_only_where_that_is_asked_for(
    tmp_path: Path, replace: bool, expected: bytes
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    with write_whole(path, replace=replace) as draft:
        draft.write_bytes(b"two")
    assert path.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_readable_by_those_that_its_mode_says(tmp_path: Path) -> None:
    for mode in (0o600, 0o644):
        with write_whole(tmp_path / "a.bin", mode=mode) as draft:
            draft.write_bytes(b"")
        assert (tmp_path / "a.bin").stat().st_mode & 0o777 == mode


def test_the_drafts_of_killed_writers_can_be_removed(tmp_path: Path) -> None:
    (tmp_path / ".a.bin.12ab").write_bytes(b"half")
    (tmp_path / ".b.bin.12ab").write_bytes(b"half")
    remove_drafts(tmp_path / "a.bin")
    assert [path.name for path in tmp_path.iterdir()] == [".b.bin.12ab"]
