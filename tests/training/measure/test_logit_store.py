"""What is stored of logits, and what becomes of damaged files, full folders and disks."""

import os
from pathlib import Path

import numpy as np
import pytest

from training.measure.logit_store import LogitStore, default_folder

ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def file_of(folder: Path) -> Path:
    (path,) = folder.rglob("*.safetensors")
    return path


def test_what_is_kept_is_found_again_by_what_it_is_of(tmp_path: Path) -> None:
    store = LogitStore(tmp_path)
    key = store.key({"terms": [["abc", 0.5]]}, ["x", "y", "z"])
    assert store.load(key, 3) is None
    store.save(key, ROWS)
    assert LogitStore(tmp_path).load(key, 3) == pytest.approx(ROWS)
    others = [
        store.key({"terms": [["abc", 0.6]]}, ["x", "y", "z"]),
        store.key({"terms": [["abc", 0.5]]}, ["x", "z", "y"]),
        store.key({"terms": [["abc", 0.5]]}, ["x", "y"]),
    ]
    assert len({key, *others}) == 4
    assert all(store.load(other, 3) is None for other in others)


def test_a_damaged_file_or_another_number_of_images_is_nothing(tmp_path: Path) -> None:
    store = LogitStore(tmp_path)
    store.save("key", ROWS)
    assert store.load("key", 4) is None
    path = file_of(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    assert store.load("key", 3) is None
    path.write_bytes(b"")
    assert store.load("key", 3) is None
    store.save("key", np.full_like(ROWS, np.nan))
    assert store.load("key", 3) is None


def test_files_that_were_not_used_for_long_make_room(tmp_path: Path) -> None:
    store = LogitStore(tmp_path, most_bytes=10**9)
    for name in ("one", "two", "six"):
        store.save(name, ROWS)
    size = file_of(tmp_path / "on").stat().st_size
    for age, name in enumerate(("six", "two", "one")):
        os.utime(file_of(tmp_path / name[:2]), (10**9 - age, 10**9 - age))
    assert store.load("one", 3) is not None  # used just now
    LogitStore(tmp_path, most_bytes=2 * size).trim()
    assert [store.load(name, 3) is not None for name in ("one", "two", "six")] == [True, False, True]


def test_computing_again_finds_nothing_and_keeps_what_is_new(tmp_path: Path) -> None:
    LogitStore(tmp_path).save("key", ROWS)
    again = LogitStore(tmp_path, again=True)
    assert again.load("key", 3) is None
    again.save("key", 2 * ROWS)
    assert LogitStore(tmp_path).load("key", 3) == pytest.approx(2 * ROWS)


def test_a_disk_that_takes_nothing_is_told_and_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = LogitStore(tmp_path / "file")
    store.save("key", ROWS)
    assert store.problem.startswith(f"logits cannot be stored in {tmp_path / 'file'}")
    assert store.load("key", 3) is None
    store.trim()


def test_the_folder_may_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COROLLA_LOGITS", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("COROLLA_LOGITS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "corolla" / "logits"
