import json
import multiprocessing
import shutil
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from model_store.format.records import Draft, Manifest
from model_store.names import AdapterId
from model_store.routes.algebra import AdapterRef
from model_store.store import Store
from petl_vit.errors import Conflict, Corrupt, InvalidInput, NotFound, Unsupported
from tests.model_store.world import World


def _file(world: World, manifest: Manifest) -> Path:
    place = f"adapters/{manifest.task}/{manifest.name}/{manifest.version}/adapter.safetensors"
    return world.folder / place


# Publishing


def test_a_folder_named_like_a_date_is_not_a_version(world: World) -> None:
    adapters = world.store.adapters
    adapters.publish(world.draft(), world.adapter(1.0))
    folder = world.folder / "adapters/digits/lora"
    shutil.copytree(folder / "1", folder / "20260102030405")
    assert adapters.publish(world.draft(), world.adapter(2.0)).version == 2
    assert adapters.versions("digits", "lora") == [1, 2]


def test_after_the_last_number_nothing_is_published_and_nothing_is_left(world: World) -> None:
    folder = world.folder / "adapters/digits/lora"
    (folder / str(2**31 - 1)).mkdir(parents=True)
    (folder / str(2**31 - 1) / "deleted.json").write_text("{}")
    with pytest.raises(Conflict, match="no number is left; publish under another name"):
        world.store.adapters.publish(world.draft(), world.adapter(1.0))
    assert len(list(folder.iterdir())) == 1


def test_versions_count_from_one_and_latest_follows(world: World) -> None:
    first = world.store.adapters.publish(world.draft(), world.adapter(1.0))
    second = world.store.adapters.publish(world.draft(), world.adapter(2.0))
    assert (first.version, second.version) == (1, 2)
    assert world.store.adapters.resolve(AdapterRef(name="lora"), "digits") == second
    assert world.store.adapters.resolve(AdapterRef(task="digits", name="lora", version=1), "other") == first
    assert world.store.adapters.list() == [AdapterId("digits", "lora")]
    assert world.store.adapters.versions("digits", "lora") == [1, 2]
    loaded = world.store.adapters.load(second)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in world.adapter(2.0).items())


def test_publishing_the_newest_again_returns_it_and_repairs_latest(world: World) -> None:
    first = world.store.adapters.publish(world.draft(), world.adapter(1.0))
    (world.folder / "aliases/digits/lora/latest").unlink()
    with pytest.raises(NotFound, match=r"write lora:1"):
        world.store.adapters.resolve(AdapterRef(name="lora"), "digits")
    assert world.store.adapters.publish(world.draft(), world.adapter(1.0)) == first
    assert world.store.adapters.resolve(AdapterRef(name="lora"), "digits") == first


def test_metrics_and_times_are_not_part_of_an_adapters_identity(world: World) -> None:
    first = world.store.adapters.publish(world.draft(), world.adapter(1.0))
    draft = world.draft().model_copy(update={"metrics": {"accuracy": 0.1}, "temperature": 2.0})
    assert world.store.adapters.publish(draft, world.adapter(1.0)) == first


def test_a_publisher_that_dies_before_the_manifest_leaves_no_adapter(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> Manifest:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "published", die)
        with pytest.raises(KeyboardInterrupt):
            world.store.adapters.publish(world.draft(), world.adapter(1.0))
    assert world.store.adapters.list() == []
    assert world.store.adapters.versions("digits", "lora") == []
    assert world.store.adapters.publish(world.draft(), world.adapter(1.0)).version == 2


def test_two_threads_that_publish_get_versions_of_their_own(world: World) -> None:
    start, found = threading.Barrier(8), []

    def publish(value: int) -> None:
        start.wait()
        found.append(world.store.adapters.publish(world.draft(), world.adapter(float(value))))

    threads = [threading.Thread(target=publish, args=(value,)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(manifest.version for manifest in found) == list(range(1, 9))
    assert world.store.adapters.aliases("digits", "lora") == {"latest": 8}
    for manifest in found:
        world.store.adapters.load(manifest)


def _publish_four(folder: str, draft: Draft, first: int) -> None:
    store = Store.open(folder)
    for value in range(first, first + 4):
        store.adapters.publish(draft, {"head.weight": torch.full((2, 3), float(value))})


def test_two_processes_that_publish_get_versions_of_their_own(world: World) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [
        spawn.Process(target=_publish_four, args=(str(world.folder), world.draft(), first))
        for first in (0, 4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert world.store.adapters.versions("digits", "lora") == list(range(1, 9))
    assert world.store.adapters.aliases("digits", "lora") == {"latest": 8}


def test_an_adapter_that_is_not_finite_is_not_published(world: World) -> None:
    with pytest.raises(InvalidInput, match="holds NaN or an infinity"):
        world.store.adapters.publish(world.draft(), world.adapter(float("inf")))
    assert world.store.adapters.list() == []


def test_an_adapter_needs_its_task_in_the_store(world: World) -> None:
    draft = world.draft().model_copy(update={"task_digest": "0" * 64})
    with pytest.raises(NotFound, match="task 'digits' has no record"):
        world.store.adapters.publish(draft, world.adapter(1.0))
    draft = world.draft().model_copy(update={"backbone_digest": "0" * 64})
    with pytest.raises(InvalidInput, match="different backbones"):
        world.store.adapters.publish(draft, world.adapter(1.0))


# Loading what should not be trusted


def test_a_truncated_file_is_refused(world: World) -> None:
    manifest = world.store.adapters.publish(world.draft(), world.adapter(1.0))
    file = _file(world, manifest)
    for size in (0, 4, 100, file.stat().st_size - 1):
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(Corrupt, match="not a whole safetensors file"):
            world.store.adapters.load(manifest)


@pytest.mark.parametrize("data", [b"\x80\x04\x95.", b"\x89PNG\r\n\x1a\n" + bytes(64), b"{}" * 100])
def test_a_foreign_file_is_refused(world: World, data: bytes) -> None:
    manifest = world.store.adapters.publish(world.draft(), world.adapter(1.0))
    _file(world, manifest).write_bytes(data)
    with pytest.raises(Corrupt, match="not a whole safetensors file"):
        world.store.adapters.load(manifest)


def test_another_adapters_file_is_refused(world: World) -> None:
    first = world.store.adapters.publish(world.draft(), world.adapter(1.0))
    second = world.store.adapters.publish(world.draft(), world.adapter(2.0))
    shutil.copy(_file(world, second), _file(world, first))
    with pytest.raises(Corrupt, match=f"digest {second.digest[:12]} instead of {first.digest[:12]}"):
        world.store.adapters.load(first)


def test_one_flipped_bit_is_refused(world: World) -> None:
    manifest = world.store.adapters.publish(world.draft(), world.adapter(1.0))
    file = _file(world, manifest)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(Corrupt, match="digest"):
        world.store.adapters.load(manifest)


def test_a_renamed_folder_is_refused(world: World) -> None:
    world.store.adapters.publish(world.draft(), world.adapter(1.0))
    shutil.copytree(world.folder / "adapters/digits/lora", world.folder / "adapters/digits/copied")
    with pytest.raises(Corrupt, match="the manifest says it is digits/lora:1"):
        world.store.adapters.manifest("digits", "copied", 1)


def test_nan_in_a_file_is_refused(world: World) -> None:
    manifest = world.store.adapters.publish(world.draft(), world.adapter(1.0))
    _file(world, manifest).write_bytes(safetensors.torch.save(world.adapter(float("nan"))))
    with pytest.raises(Corrupt, match="holds NaN"):
        world.store.adapters.load(manifest)


def test_a_missing_file_is_refused(world: World) -> None:
    manifest = world.store.adapters.publish(world.draft(), world.adapter(1.0))
    _file(world, manifest).unlink()
    with pytest.raises(Corrupt, match="the file is missing"):
        world.store.adapters.load(manifest)


def test_a_changed_manifest_is_refused_at_load(world: World) -> None:
    manifest = world.store.adapters.publish(world.draft(), world.adapter(1.0))
    file = world.folder / "adapters/digits/lora/1/manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"config": {"rank": 8}}))
    changed = world.store.adapters.manifest("digits", "lora", 1)
    assert changed != manifest
    with pytest.raises(Corrupt, match="digest"):
        world.store.adapters.load(changed)


def test_a_newer_format_is_refused_with_the_remedy(world: World) -> None:
    world.store.adapters.publish(world.draft(), world.adapter(1.0))
    file = world.folder / "adapters/digits/lora/1/manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 2}))
    with pytest.raises(Unsupported, match="install the corolla that wrote it"):
        world.store.adapters.manifest("digits", "lora", 1)


# Names


def test_an_unknown_adapter_version_or_alias_names_those_that_exist(world: World) -> None:
    world.store.adapters.publish(world.draft(), world.adapter(1.0))
    world.store.adapters.set_alias("digits", "lora", "prod", 1)

    def refusal(ref: AdapterRef, task: str = "digits") -> str:
        with pytest.raises(NotFound) as error:
            world.store.adapters.resolve(ref, task)
        return str(error.value)

    assert "did you mean lora?" in refusal(AdapterRef(name="lorra"))
    assert "there is lora" in refusal(AdapterRef(name="zzz"))
    assert "version: " in refusal(AdapterRef(name="lora", version=7))
    assert "there is 1" in refusal(AdapterRef(name="lora", version=7))
    assert "did you mean prod?" in refusal(AdapterRef(name="lora", alias="prd"))
    assert "did you mean digits?" in refusal(AdapterRef(name="lora"), task="digit")


def test_base_is_no_adapter(world: World) -> None:
    with pytest.raises(InvalidInput, match="no manifest"):
        world.store.adapters.resolve(AdapterRef(name="base"), "digits")
    with pytest.raises(InvalidInput, match="`base`"):
        world.draft(name="base")
