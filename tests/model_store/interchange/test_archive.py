"""An archive moves one adapter between stores, or says by name why it does not."""

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch

from model_store.format.records import TaskSpec
from model_store.interchange import archive
from model_store.interchange.archive import ADAPTER, BASE_HEAD, RECORD
from model_store.store import Store
from petl_vit.errors import Conflict, CorollaError, Corrupt, NotFound, Unsupported
from tests.model_store.real import Real


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    made = Real(Store.open(str(tmp_path_factory.mktemp("store"))))
    made.publish("lora")
    return made


@pytest.fixture
def data(real: Real) -> bytes:
    return archive.write(real.store, real.store.adapters.manifest("zoo", "lora", 1))


@pytest.fixture
def other(real: Real, tmp_path: Path) -> Store:
    """Another store with the same backbone, under a name of its own."""
    store = Store.open(str(tmp_path / "other"))
    weights = real.store.backbones.load(real.backbone)
    store.backbones.put("same", real.backbone.config, weights, "copy")
    return store


def changed(data: bytes, part: str, change: bytes | None, compress: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with one part replaced, or left out."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(file, "w", compress) as target:
        for name in dict.fromkeys([*source.namelist(), part]):
            kept = change if name == part else source.read(name)
            if kept is not None:
                target.writestr(name, kept)
    return file.getvalue()


def edited(data: bytes, *path: str, value: object) -> bytes:
    """The archive with one field of its record changed."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        record = json.loads(source.read(RECORD))
    place = record
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed(data, RECORD, json.dumps(record).encode())


def test_the_same_adapter_is_the_same_bytes_in_every_store(real: Real, data: bytes, other: Store) -> None:
    assert archive.write(real.store, real.store.adapters.manifest("zoo", "lora", 1)) == data
    found = archive.register(other, archive.read(data))
    assert archive.write(other, found.manifest) == data
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.namelist() == [RECORD, ADAPTER, BASE_HEAD]


def test_an_adapter_arrives_whole_with_its_task_and_metrics(real: Real, data: bytes, other: Store) -> None:
    sent = real.store.adapters.manifest("zoo", "lora", 1)
    found = archive.register(other, archive.read(data)).manifest
    same = ("digest", "task_digest", "backbone_digest", "temperature", "metrics", "training", "config")
    assert all(getattr(found, name) == getattr(sent, name) for name in same)
    tensors, expected = other.adapters.load(found), real.store.adapters.load(sent)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    task = other.tasks.of(found)
    assert task.spec == real.task.spec
    assert torch.equal(other.tasks.load_base_head(task)["head.weight"], real.head(1).weight)
    assert other.adapters.aliases("zoo", "lora") == {"latest": 1}


def test_importing_again_changes_nothing(real: Real, data: bytes, other: Store) -> None:
    first = archive.register(other, archive.read(data))
    again = archive.register(other, archive.read(data))
    assert (first.known, again.known) == (False, True)
    assert again.manifest == first.manifest
    assert archive.register(real.store, archive.read(data)).known


def test_an_older_version_is_recognised_too(real: Real, data: bytes, other: Store) -> None:
    first = archive.register(other, archive.read(data)).manifest
    newer = real.store.adapters.load(real.store.adapters.manifest("zoo", "lora", 1))
    newer["head.bias"] = newer["head.bias"] + 1
    other.adapters.publish(archive.read(data).record.adapter, newer)
    assert archive.register(other, archive.read(data)).manifest == first
    assert other.adapters.versions("zoo", "lora") == [1, 2]


def test_another_name_and_task_can_be_given(data: bytes, other: Store) -> None:
    found = archive.register(other, archive.read(data), task="animals", name="theirs").manifest
    assert (found.task, found.name) == ("animals", "theirs")
    assert [record.spec.name for record in other.tasks.list()] == ["animals"]


def test_a_backbone_that_is_not_in_the_store_is_named_by_digest(
    real: Real, data: bytes, tmp_path: Path
) -> None:
    with pytest.raises(
        NotFound, match=rf"{real.backbone.digest}.*vit_tiny_patch16_224.*corolla backbones import"
    ):
        archive.register(Store.open(str(tmp_path / "empty")), archive.read(data))


def test_a_task_name_that_means_something_else_is_a_conflict(real: Real, data: bytes, other: Store) -> None:
    spec = TaskSpec.of(**dict(real.task.spec) | {"classes": tuple("abcde")})
    other.tasks.put(spec, real.head(1).tensors())
    with pytest.raises(Conflict, match="different classes"):
        archive.register(other, archive.read(data))


def test_a_flipped_bit_is_refused(data: bytes) -> None:
    places = [data.index(b"lora_b") + 2000, len(data) // 2, len(data) - 40]
    for place in places:
        broken = bytearray(data)
        broken[place] ^= 1
        with pytest.raises(CorollaError):
            archive.read(bytes(broken))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("adapter_digest",), "0" * 64, "adapter's digest"),
        (("adapter", "config"), {"rank": 4}, "adapter's digest"),
        (("adapter", "task_digest"), "1" * 64, "task's digest"),
        (("task", "classes"), ["bee", "ant", "cat", "dog", "eel"], "task's digest"),
        (("task", "backbone_digest"), "2" * 64, "backbone's digest"),
        (("adapter", "name"), "../../x", "adapter.name"),
        (("kind",), "something", "kind"),
        (("surprise",), 1, "surprise"),
    ],
)
def test_a_changed_record_is_refused(data: bytes, path: tuple[str, ...], value: object, said: str) -> None:
    with pytest.raises(Corrupt, match=said):
        archive.read(edited(data, *path, value=value))


def test_a_newer_format_is_refused_with_the_remedy(data: bytes) -> None:
    with pytest.raises(Unsupported, match=r"format version 2.*install the corolla"):
        archive.read(edited(data, "format_version", value=2))


@pytest.mark.parametrize("part", [RECORD, ADAPTER, BASE_HEAD])
def test_a_missing_part_is_refused(data: bytes, part: str) -> None:
    with pytest.raises(Corrupt, match="it holds"):
        archive.read(changed(data, part, None))


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "more.txt"])
def test_a_part_that_does_not_belong_is_refused(data: bytes, name: str) -> None:
    with pytest.raises(Corrupt, match="it holds"):
        archive.read(changed(data, name, b"x"))


def test_a_part_that_is_there_twice_is_refused(data: bytes) -> None:
    file = io.BytesIO(data)
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as target,
    ):
        target.writestr(ADAPTER, b"x")
    with pytest.raises(Corrupt, match="it holds"):
        archive.read(file.getvalue())


def test_a_compressed_part_is_refused_before_it_is_unpacked(data: bytes) -> None:
    bomb = changed(data, ADAPTER, bytes(50_000_000), zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1_000_000
    with pytest.raises(Corrupt, match="is compressed"):
        archive.read(bomb)


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06", b"not a zip", b"PK" * 999])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(Corrupt, match="not a whole archive"):
        archive.read(data)


def test_half_an_archive_is_refused(data: bytes) -> None:
    with pytest.raises(Corrupt, match="not a whole archive"):
        archive.read(data[: len(data) // 2])


def test_tensors_that_are_not_the_methods_are_not_registered(real: Real, other: Store) -> None:
    sent = real.store.adapters.manifest("zoo", "lora", 1)
    tensors = real.store.adapters.load(sent) | {"blocks.0.more": torch.zeros(2)}
    draft = archive.read(archive.write(real.store, sent)).record.adapter
    odd = real.store.adapters.publish(draft.model_copy(update={"name": "odd"}), tensors)
    with pytest.raises(Corrupt, match=r"has unexpected blocks\.0\.more"):
        archive.register(other, archive.read(archive.write(real.store, odd)))
    assert other.adapters.list() == []
