import os
import threading
from pathlib import Path

import pytest

from model_store.place.objects import Objects
from model_store.place.problems import problem_of, without_secrets
from petl_vit.errors import CorollaError, InvalidInput


@pytest.fixture(params=["folder", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return Objects.open(str(tmp_path) if request.param == "folder" else "memory:///")


def test_what_is_not_there_reads_as_none(objects: Objects) -> None:
    assert objects.read("a/b") is None
    assert objects.keys("a") == []


def test_create_writes_once(objects: Objects) -> None:
    assert objects.create("a/b", b"first")
    assert not objects.create("a/b", b"second")
    assert objects.read("a/b") == b"first"


def test_keys_are_listed_below_whole_segments(objects: Objects) -> None:
    for key in ("a/2", "a/1/x", "ab/3"):
        objects.create(key, b"")
    assert objects.keys("a") == ["a/1/x", "a/2"]


def test_files_that_have_no_key_are_passed_over(tmp_path: Path) -> None:
    objects = Objects.open(str(tmp_path))
    for key in ("a/1/x", "a/2", "b/3"):
        objects.create(key, b"12")
    expected = objects.stamps("a")
    assert list(expected) == ["a/1/x", "a/2"] or list(expected) == ["a/2", "a/1/x"]
    for name in (b"caf\xe9", b"Icon\r", b"2#7"):
        Path(os.fsdecode(os.fsencode(tmp_path / "a" / "1") + b"/" + name)).write_text("not ours")
    (tmp_path / "a" / "1" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "itself").symlink_to(tmp_path / "a" / "itself")
    (tmp_path / "a" / "gone").symlink_to(tmp_path / "nowhere")
    assert objects.stamps("a") == expected
    for here, there in (("c", "d"), ("d", "c")):
        for number in range(2):
            (tmp_path / here).mkdir(exist_ok=True)
            (tmp_path / here / f"to-{there}-{number}").symlink_to(tmp_path / there)
    assert objects.keys("") == ["a/1/x", "a/2", "b/3"], "folders that link to each other are an end, too"
    (tmp_path / "b" / "linked").symlink_to(tmp_path / "a" / "1")
    (tmp_path / "b" / "Icon\r").write_text("not ours")
    assert objects.keys("b") == ["b/3", "b/linked/x"], "links that lead elsewhere are followed"
    assert objects.keys("e") == []


def test_swap_loses_no_increment_of_many_threads(objects: Objects) -> None:
    def count() -> None:
        for _ in range(5):
            objects.swap("n", lambda data: str(int(data or b"0") + 1).encode())

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert objects.read("n") == b"20"


def test_a_swap_whose_change_raises_writes_nothing(objects: Objects) -> None:
    objects.create("n", b"1")

    def refuse(_: bytes | None) -> bytes:
        raise CorollaError("no")

    with pytest.raises(CorollaError, match="no"):
        objects.swap("n", refuse)
    assert objects.read("n") == b"1"


def test_deleted_objects_are_gone(objects: Objects) -> None:
    objects.create("a/b", b"")
    objects.delete("a/b")
    assert objects.read("a/b") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_a_clear_error(tmp_path: Path) -> None:
    objects = Objects.open(str(tmp_path))
    tmp_path.chmod(0o500)
    with pytest.raises(CorollaError, match="check its URL, your permissions"):
        objects.create("a/b", b"")


@pytest.mark.parametrize("url", ["s3://b/p", "gs://b/p", "az://c/p", "abfss://c@a.dfs.core.windows.net/p"])
def test_a_bucket_of_any_of_the_three_clouds_opens_by_its_url(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "a")
    assert "Store" in str(Objects.open(url))
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    if url.startswith("az:"):
        with pytest.raises(InvalidInput, match=r"store: .* names no storage account; set AZURE_STORAGE"):
            Objects.open(url)


def test_a_misspelt_scheme_is_refused_with_the_ones_that_there_are() -> None:
    with pytest.raises(InvalidInput, match=r"store: 's4://b' does not open .* s3://bucket/prefix, gs://"):
        Objects.open("s4://b")


def test_a_failing_place_is_a_clear_error_that_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file where a folder should be")
    with pytest.raises(CorollaError, match=r"^a/b: the store cannot be read or written"):
        Objects.open(str(tmp_path)).create("a/b", b"")


def test_what_is_secret_in_a_url_is_in_no_error_and_not_in_the_name_of_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = "https://user:password@127.0.0.1:1/x?sig=signature"
    said = str(Objects.open(url))
    assert said == 'HTTPStore("https://***@127.0.0.1:1/x?***")'
    with pytest.raises(InvalidInput) as caught:
        Objects.open(url.replace("https", "s4"))
    assert "s4://***@127.0.0.1:1/x?***" in str(caught.value)
    problem = problem_of("backbones", OSError(f"Error performing PROPFIND {url} in 886 ms - HTTP error"))
    assert "https://***@127.0.0.1:1/x?*** in 886 ms" in str(problem)
    for text in (str(caught.value), str(problem)):
        assert "password" not in text
        assert "signature" not in text
    for secret, shown in {
        "az://c?sig=a(b)c&x=1": "az://c?***",
        "s3://u:p@ss@h/b": "s3://***@h/b",
        "s3://u:pa/ss@h/b": "s3://***@h/b",
    }.items():
        assert without_secrets(f"{secret} is read") == f"{shown} is read"
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(InvalidInput, match="names no storage account") as caught:
        Objects.open("az://container?sig=signature")
    assert "signature" not in str(caught.value)
    assert str(Objects.open("abfss://models@account.dfs.core.windows.net/x")).count("***") == 0
