"""The cache of tensor files: a bound, least recently used first, several processes, and nothing trusted."""

import fcntl
import multiprocessing
import os
from pathlib import Path

import platformdirs
import pytest

from model_store.place import cache as cache_module
from model_store.place.cache import Cache
from petl_vit.errors import InvalidInput

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def age(folder: Path, digest: str, seconds: float) -> None:
    os.utime(folder / f"{digest}.safetensors", (seconds, seconds))


def test_what_was_put_is_there_for_any_process_that_opens_the_folder(tmp_path: Path) -> None:
    Cache(tmp_path / "new" / "cache", 10).put(A, b"12345")
    assert Cache(tmp_path / "new" / "cache", 10).get(A) == b"12345"
    assert Cache(tmp_path / "new" / "cache", 10).get(B) is None


def test_the_least_recently_read_leaves_first_and_the_bound_holds(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10)
    cache.put(A, b"12345")
    cache.put(B, b"12345")
    age(tmp_path, A, 1)
    age(tmp_path, B, 2)
    assert cache.get(A) == b"12345"  # which makes B the oldest
    cache.put(C, b"1234")
    assert (cache.get(A), cache.get(B), cache.get(C)) == (b"12345", None, b"1234")
    assert cache.size == 9


def test_a_file_above_the_bound_is_left_out_and_drives_nothing_out(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 4)
    cache.put(A, b"1234")
    cache.put(B, b"12345")
    assert (cache.get(A), cache.get(B)) == (b"1234", None)


def test_a_smaller_bound_holds_from_the_first_use_and_drafts_of_killed_writers_go(tmp_path: Path) -> None:
    Cache(tmp_path, 10).put(A, b"12345")
    draft = tmp_path / f".{B}.safetensors.0123abcd"
    draft.write_bytes(b"half")
    cache = Cache(tmp_path, 4)
    assert cache.get(A) is None
    assert cache.size == 0
    assert not draft.exists()


def test_a_bound_of_nothing_keeps_nothing_and_a_negative_one_is_refused(tmp_path: Path) -> None:
    assert Cache.at(tmp_path, 0) is None
    assert Cache.at(None, 10) is None
    with pytest.raises(InvalidInput, match="cache_bytes: -1 is negative"):
        Cache.at(tmp_path, -1)


def test_the_user_has_a_cache_of_remote_stores_and_of_others_where_a_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for url in ("s3://models/prod", "gs://models", "az://models", "abfss://a@b.dfs.core.windows.net/c"):
        cache = Cache.of_user(url)
        assert cache is not None
        assert cache.folder == Path(platformdirs.user_cache_dir("corolla", appauthor=False), "tensors")
    for url in (None, "/srv/models", "file:///srv/models", "memory:///"):
        assert Cache.of_user(url) is None
        named = Cache.of_user(url, tmp_path / "named", 7)
        assert named is not None
        assert (named.folder, named.limit) == (tmp_path / "named", 7)
    assert not list(tmp_path.iterdir()), "nothing is made before something is kept"


@pytest.mark.parametrize("home", ["~/.cache/corolla", None])
def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    def folder(*_: object, **__: object) -> str:
        if home is None:  # as newer versions of platformdirs do
            raise RuntimeError("could not determine the home directory")
        return home

    monkeypatch.setattr(cache_module, "user_cache_dir", folder)
    assert Cache.of_user("s3://models/prod") is None


def test_the_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    Cache(tmp_path / "cache", 10).put(A, b"12345")
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_made_and_a_full_disk_are_one_warning_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache", 10)
    for digest in (A, B):
        cache.put(digest, b"1")
        assert cache.get(digest) is None
    assert [record.message.count("cannot be written") for record in caplog.records] == [1]
    caplog.clear()
    cache = Cache(tmp_path, 10)

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
    cache = Cache(tmp_path, 10)
    with open(tmp_path / ".lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        cache.put(A, b"1")
        assert Cache(tmp_path, 10).get(A) is None
    assert cache.get(A) is None
    assert not caplog.records, "it is kept next time"
    cache.put(A, b"1")
    assert cache.get(A) == b"1"


def fill(folder: str, first: int) -> None:
    cache = Cache(Path(folder), 100)
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
    assert Cache(tmp_path, 100).size == 100
