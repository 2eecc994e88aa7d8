"""Commands over an object store: what one has downloaded is there for the next, within a bound."""

import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import corolla
from model_store.format.records import Draft
from model_store.place.cache import Cache
from model_store.store import Store
from tests.corolla.shell import Shell
from tests.model_store.s3 import S3
from tests.serving.world import encoded

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
ONCE = {"backbones": 1, "tasks": 1, "adapters": 1}
ON_CPU = ("--device", "cpu", "--precision", "fp32")


@pytest.fixture
def bucket(
    s3: S3, url: str, trained_store: Path, empty: Shell, monkeypatch: pytest.MonkeyPatch
) -> Iterator[S3]:
    """The S3 server with a copy of the trained store, which is the user's."""
    code, _, err = empty("store", "copy", url, "--store", str(trained_store))
    assert code == 0, err
    monkeypatch.setenv("COROLLA_STORE", url)
    s3.reset()
    return s3


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encoded(number))
    return folder


def folder_of_user() -> Path:
    cache = Cache.of_user("s3://any")
    assert cache is not None
    return cache.folder


def downloads(s3: S3) -> dict[str, int]:
    """How often tensors of each kind were asked for since this was last asked."""
    asked = [
        path.split("/") for method, path in s3.asked if method == "GET" and path.endswith(".safetensors")
    ]
    s3.asked.clear()
    return dict(Counter(parts[3] for parts in asked))


def fold(shell: Shell, *more: str) -> str:
    """Folds the adapter, which reads all three files of tensors; what is said on stderr."""
    out = shell.folder / "folded.safetensors"
    code, _, err = shell("adapters", "fold", "lora", "--out", str(out), "--overwrite", *more)
    assert code == 0, err
    return err


def test_a_command_downloads_no_tensors_that_another_has(bucket: S3, empty: Shell, photos: Path) -> None:
    fold(empty)
    assert downloads(bucket) == ONCE
    out = str(empty.folder / "out.csv")
    once_more = (
        ("adapters", "fold", "lora", "--out", str(empty.folder / "2.safetensors")),
        ("predict", str(photos), "--route", "lora", "--out", out, *ON_CPU),
        ("evaluate", "lora", "base", "--data", "digits", "--limit", "20", *ON_CPU),
        ("adapters", "export", "lora", "--format", "archive", "--out", str(empty.folder / "lora.corolla")),
    )
    for words in once_more:
        code, _, err = empty(*words)
        assert code == 0, err
        assert downloads(bucket) == {}, words
    with corolla.Store(device="cpu", precision="fp32") as store:
        assert len(store.classify([photos / "0.png"], route="lora")) == 1
    assert downloads(bucket) == {}


def test_what_is_trained_on_a_bucket_is_read_once_too(bucket: S3, empty: Shell) -> None:
    fold(empty)
    downloads(bucket)
    code, _, err = empty.train("ssf")
    assert code == 0, err
    assert downloads(bucket) == {}
    words = ("--members", "lora, ssf", "--name", "both", "--data", "digits")
    code, _, err = empty("adapters", "soup", *words, "--task", "digits", *ON_CPU)
    assert code == 0, err
    assert downloads(bucket) == {"adapters": 1}, "ssf, which no command has read yet"


def test_names_are_never_cached(bucket: S3, url: str, empty: Shell) -> None:
    fold(empty)
    downloads(bucket)
    store = Store.open(url)
    first = store.adapters.manifest("digits", "lora", 1)
    tensors = {name: tensor + 1 for name, tensor in store.adapters.load(first).items()}
    draft = Draft.of(**{name: getattr(first, name) for name in Draft.model_fields})
    second = store.adapters.publish(draft, tensors)
    downloads(bucket)
    fold(empty)
    assert (second.version, downloads(bucket)) == (2, {"adapters": 1})


def test_what_reads_a_store_to_verify_it_uses_no_cache(bucket: S3, empty: Shell) -> None:
    fold(empty)
    downloads(bucket)
    for words in (("store", "verify"), ("adapters", "verify", "lora")):
        assert empty(*words)[0] == 0
        assert downloads(bucket)["adapters"] == 1
    before = sorted(folder_of_user().iterdir())
    assert empty("store", "copy", str(empty.folder / "copy"))[0] == 0
    assert downloads(bucket) == ONCE
    assert sorted(folder_of_user().iterdir()) == before


@pytest.mark.slow
def test_two_commands_at_once_share_a_cache(bucket: S3, empty: Shell, photos: Path) -> None:
    def predict(number: int) -> "subprocess.Popen[str]":
        words = (
            "predict",
            str(photos),
            "--route",
            "lora",
            "--out",
            str(empty.folder / f"{number}.csv"),
            *ON_CPU,
        )
        command = [sys.executable, "-m", "corolla", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    running = [predict(number) for number in range(2)]
    said = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert not [err for _, err in said if "cache" in err]
    assert (empty.folder / "0.csv").read_bytes() == (empty.folder / "1.csv").read_bytes()
    kept = sorted(path.name for path in folder_of_user().glob("*.safetensors"))
    assert len(kept) == 3
    downloads(bucket)
    fold(empty)
    assert downloads(bucket) == {}


def test_a_damaged_entry_is_downloaded_again(
    bucket: S3, empty: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    fold(empty)
    downloads(bucket)
    for path in folder_of_user().glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    fold(empty)
    assert downloads(bucket) == ONCE
    assert sum("damaged copy" in record.message for record in caplog.records) == 3
    fold(empty)
    assert downloads(bucket) == {}


def test_a_cache_that_cannot_be_written_is_one_note(bucket: S3, empty: Shell) -> None:
    (empty.folder / "file").write_text("")
    out = str(empty.folder / "folded.safetensors")
    words = ("adapters", "fold", "lora", "--out", out, "--cache", str(empty.folder / "file" / "cache"))
    done = subprocess.run([sys.executable, "-m", "corolla", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot be written, and is not filled") == 1
    assert downloads(bucket) == ONCE


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Lets the system refuse larger files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_keeps_no_half_of_a_file(
    bucket: S3, empty: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("evaluate", "lora", "--data", "digits", "--limit", "20", *ON_CPU)
    with largest_file(50_000):
        code, _, err = empty(*words)
    assert code == 0, err
    assert [record.message.count("File too large") for record in caplog.records] == [1]
    sizes = [path.stat().st_size for path in folder_of_user().iterdir()]
    assert max(sizes) < 50_000, "the backbone is larger"
    caplog.clear()
    downloads(bucket)
    assert empty(*words, "--again")[0] == 0
    assert downloads(bucket)["backbones"] == 1
    assert not caplog.records


def test_a_bound_is_kept_and_a_bound_of_nothing_keeps_nothing(bucket: S3, empty: Shell) -> None:
    fold(empty, "--cache-bytes", "0")
    assert not folder_of_user().exists()
    fold(empty)
    sizes = {path.name: path.stat().st_size for path in folder_of_user().glob("*.safetensors")}
    largest = max(sizes.values())
    fold(empty, "--cache-bytes", str(largest))
    assert sum(path.stat().st_size for path in folder_of_user().glob("*.safetensors")) <= largest
    shutil.rmtree(folder_of_user())
    fold(empty, "--cache-bytes", str(largest - 1))
    kept = {path.name for path in folder_of_user().glob("*.safetensors")}
    assert kept == {name for name, size in sizes.items() if size < largest}


def test_a_named_folder_is_shared_with_servers_and_stores_of_any_kind(
    bucket: S3, trained_store: Path, empty: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COROLLA_CACHE", str(empty.folder / "cache"))
    fold(empty, "--store", str(trained_store))
    downloads(bucket)
    fold(empty)
    assert downloads(bucket) == {}
    assert len(list((empty.folder / "cache").glob("*.safetensors"))) == 3
    assert not folder_of_user().exists()
    monkeypatch.setenv("COROLLA_CACHE_BYTES", "-1")
    assert "--cache-bytes" in empty.refused("adapters", "fold", "lora", "--out", str(empty.folder / "x"))


def test_a_folder_as_a_store_needs_no_cache(trained: Shell) -> None:
    fold(trained)
    assert not folder_of_user().exists()
