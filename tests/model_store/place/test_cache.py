"""The cache of tensor files: a bound, least recently used first, several processes, and nothing trusted."""

import fcntl
import multiprocessing
import os
from pathlib import Path

import pytest

from model_store.place import cache as cache_module
from model_store.place.cache import Cache
from petl_vit.errors import CorollaError, InvalidInput

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def age(folder: Path, digest: str, seconds: float) -> None:
    os.utime(folder / f"{digest}.safetensors", (seconds, seconds))


def test_what_was_put_is_there_for_any_process_that_opens_the_folder(tmp_path: Path) -> None:
    Cache.open(tmp_path / "new" / "cache", 10).put(A, b"12345")
    assert Cache.open(tmp_path / "new" / "cache", 10).get(A) == b"12345"
    assert Cache.open(tmp_path / "new" / "cache", 10).get(B) is None


def test_the_least_recently_read_leaves_first_and_the_bound_holds(tmp_path: Path) -> None:
    cache = Cache.open(tmp_path, 10)
    cache.put(A, b"12345")
    cache.put(B, b"12345")
    age(tmp_path, A, 1)
    age(tmp_path, B, 2)
    assert cache.get(A) == b"12345"  # which makes B the oldest
    cache.put(C, b"1234")
    assert (cache.get(A), cache.get(B), cache.get(C)) == (b"12345", None, b"1234")
    assert cache.size == 9


def test_a_file_above_the_bound_is_left_out_and_drives_nothing_out(tmp_path: Path) -> None:
    cache = Cache.open(tmp_path, 4)
    cache.put(A, b"1234")
    cache.put(B, b"12345")
    assert (cache.get(A), cache.get(B)) == (b"1234", None)


def test_a_smaller_bound_holds_from_the_start_and_drafts_of_killed_writers_go(tmp_path: Path) -> None:
    Cache.open(tmp_path, 10).put(A, b"12345")
    draft = tmp_path / f".{B}.safetensors.0123abcd"
    draft.write_bytes(b"half")
    assert Cache.open(tmp_path, 4).size == 0
    assert not draft.exists()


def test_a_folder_that_cannot_be_made_is_a_clear_error_and_a_full_disk_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CorollaError, match=r"^cache: the folder .* cannot be written .*; choose another"):
        Cache.open(tmp_path / "file" / "cache", 10)
    with pytest.raises(InvalidInput, match="cache_bytes"):
        Cache.open(tmp_path, 0)
    cache = Cache.open(tmp_path, 10)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    cache.put(A, b"1")
    cache.put(B, b"1")
    assert [record.message.count("No space left") for record in caplog.records] == [1]
    assert cache.get(A) is None
    assert list(tmp_path.glob(".a*")) == []


def test_a_file_is_not_kept_where_another_process_holds_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache_module, "_PATIENCE_S", 0.02)
    cache = Cache.open(tmp_path, 10)
    with open(tmp_path / ".lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        cache.put(A, b"1")
        Cache.open(tmp_path, 10)
    assert cache.get(A) is None
    assert len(caplog.records) == 1
    cache.put(A, b"1")
    assert cache.get(A) == b"1"


def fill(folder: str, first: int) -> None:
    cache = Cache.open(Path(folder), 100)
    for number in range(first, first + 20):
        digest = f"{number:064x}"
        cache.put(digest, bytes([number]) * 10)
        assert cache.get(digest) in (None, bytes([number]) * 10)
        assert cache.size <= 100


def test_processes_that_fill_one_folder_keep_the_bound_and_read_whole_files(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fill, args=(str(tmp_path), 10 * number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert Cache.open(tmp_path, 100).size == 100
