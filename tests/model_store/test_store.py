import json
import multiprocessing
import shutil
import threading
from pathlib import Path

import platformdirs
import pytest
import safetensors.torch
import torch

from model_store.format.records import Draft, Manifest, NamedRoute
from model_store.names import AdapterId
from model_store.routes.algebra import AdapterRef
from model_store.store import Store
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import Conflict, CorollaError, Corrupt, InvalidInput, NotFound, Unsupported
from tests.model_store.world import CONFIG, World

TRAVERSALS = ["..", "../escape", "a/b", "", "A", ".hidden", "a" * 64, "a\x00b", "a\n", "1st"]


def _file(world: World, manifest: Manifest) -> Path:
    place = f"adapters/{manifest.task}/{manifest.name}/{manifest.version}/adapter.safetensors"
    return world.folder / place


def test_the_default_store_is_in_the_users_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platformdirs, "user_data_dir", lambda *_, **__: str(tmp_path / "corolla"))
    assert Store.open().backbones.list() == []
    assert (tmp_path / "corolla" / "store").is_dir()


@pytest.mark.parametrize("url", ["nonsense://x", "s3://"])
def test_a_url_that_means_nothing_is_refused_with_examples(url: str) -> None:
    with pytest.raises(InvalidInput, match="s3://bucket/prefix"):
        Store.open(url)


def test_a_file_in_place_of_the_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CorollaError, match="--store or COROLLA_STORE"):
        Store.open(str(tmp_path / "file"))


@pytest.mark.parametrize("url", ["plain", "file"])
def test_a_folder_opens_as_a_path_and_as_a_url(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "a folder"
    World(Store.open(str(folder) if url == "plain" else folder.as_uri()), folder)
    assert [record.name for record in Store.open(str(folder)).backbones.list()] == ["tiny.one"]


# Backbones


def test_a_backbone_is_stored_once_and_reads_back_equal(world: World) -> None:
    again = world.store.backbones.put("tiny.other", CONFIG, world.weights(1.0), "elsewhere")
    assert again == world.backbone
    assert world.store.backbones.list() == [world.backbone]
    loaded = world.store.backbones.load(world.backbone)
    assert loaded.keys() == world.weights(1.0).keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in world.weights(1.0).items())


def test_a_backbones_config_is_part_of_its_identity(world: World) -> None:
    config = BackboneConfig(**(CONFIG.model_dump() | {"pos_embed_antialias": False}))
    other = world.store.backbones.put("tiny.two", config, world.weights(1.0), "random")
    assert other.digest != world.backbone.digest


def test_a_backbone_is_found_by_name_digest_and_prefix(world: World) -> None:
    digest = world.backbone.digest
    for ref in ("tiny.one", digest, digest[:8]):
        assert world.store.backbones.get(ref) == world.backbone
    with pytest.raises(NotFound):
        world.store.backbones.get(digest[:7])


def test_an_unknown_backbone_names_near_matches(world: World) -> None:
    with pytest.raises(NotFound, match=r"did you mean tiny\.one\?"):
        world.store.backbones.get("tiny.onw")


def test_a_name_of_two_backbones_lists_their_digests(world: World) -> None:
    other = world.store.backbones.put("tiny.one", CONFIG, world.weights(2.0), "random")
    with pytest.raises(InvalidInput) as error:
        world.store.backbones.get("tiny.one")
    assert world.backbone.digest in str(error.value)
    assert other.digest in str(error.value)


def test_a_changed_backbone_file_is_refused(world: World) -> None:
    file = world.folder / f"backbones/{world.backbone.digest}/backbone.safetensors"
    file.write_bytes(safetensors.torch.save(world.weights(3.0)))
    with pytest.raises(Corrupt, match="import the backbone again"):
        world.store.backbones.load(world.backbone)


def test_weights_that_are_not_finite_are_not_stored(world: World) -> None:
    with pytest.raises(InvalidInput, match="'cls_token' holds NaN"):
        world.store.backbones.put("tiny.nan", CONFIG, world.weights(float("nan")), "random")


# Tasks


def test_a_task_is_stored_once_and_reads_back_equal(world: World) -> None:
    assert world.store.tasks.put(world.spec(), world.head(0.0)) == world.task
    assert world.store.tasks.list() == [world.task]
    assert world.store.tasks.get("digits", world.backbone.digest) == world.task
    assert torch.equal(world.store.tasks.load_base_head(world.task)["head.weight"], torch.zeros(2, 3))


def test_a_task_name_cannot_be_taken_by_other_classes_or_another_head(world: World) -> None:
    with pytest.raises(Conflict, match="different classes; give this one another --task name"):
        world.store.tasks.put(world.spec(classes=("zero", "two")), world.head(0.0))
    with pytest.raises(Conflict, match="different base head"):
        world.store.tasks.put(world.spec(), world.head(1.0))


def test_a_task_may_be_on_two_backbones(world: World) -> None:
    other = world.store.backbones.put("tiny.two", CONFIG, world.weights(2.0), "random")
    spec = world.spec().model_copy(update={"backbone_digest": other.digest})
    record = world.store.tasks.put(spec, world.head(1.0))
    assert world.store.tasks.get("digits", other.digest) == record
    assert world.store.tasks.get("digits", world.backbone.digest) == world.task


def test_an_unknown_task_names_near_matches_and_a_known_one_its_backbones(world: World) -> None:
    with pytest.raises(NotFound, match="did you mean digits"):
        world.store.tasks.get("digit", world.backbone.digest)
    with pytest.raises(NotFound, match=f"it is on {world.backbone.digest[:12]}"):
        world.store.tasks.get("digits", "0" * 64)


def test_a_task_needs_its_backbone(world: World) -> None:
    with pytest.raises(NotFound, match="corolla backbones import"):
        world.store.tasks.put(world.spec().model_copy(update={"backbone_digest": "0" * 64}), world.head(0.0))


# Publishing


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


@pytest.mark.parametrize("name", TRAVERSALS)
def test_no_name_leaves_the_store(world: World, name: str) -> None:
    store = world.store
    for call in (
        lambda: store.adapters.manifest(name, "lora", 1),
        lambda: store.adapters.manifest("digits", name, 1),
        lambda: store.adapters.versions(name, "lora"),
        lambda: store.adapters.list(name),
        lambda: store.adapters.aliases("digits", name),
        lambda: store.adapters.set_alias("digits", "lora", name, 1),
        lambda: store.routes.get("digits", name),
        lambda: store.routes.list(name),
        lambda: store.routes.delete(name, "x"),
        lambda: store.tasks.get(name, world.backbone.digest),
        lambda: store.adapters.resolve(AdapterRef(name="lora"), name),
    ):
        with pytest.raises(InvalidInput):
            call()


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


# Aliases and routes


def test_an_alias_moves_only_from_where_it_is_expected(world: World) -> None:
    for value in (1.0, 2.0, 3.0):
        world.store.adapters.publish(world.draft(), world.adapter(value))
    with pytest.raises(Conflict, match="does not exist, not at 1"):
        world.store.adapters.set_alias("digits", "lora", "prod", 2, expected=1)
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    world.store.adapters.set_alias("digits", "lora", "prod", 2, expected=1)
    with pytest.raises(Conflict, match="points at version 2, not at 1"):
        world.store.adapters.set_alias("digits", "lora", "prod", 3, expected=1)
    assert world.store.adapters.aliases("digits", "lora") == {"latest": 3, "prod": 2}
    assert world.store.adapters.resolve(AdapterRef(name="lora", alias="prod"), "digits").version == 2


def test_an_alias_needs_a_version_that_exists_and_is_not_latest(world: World) -> None:
    world.store.adapters.publish(world.draft(), world.adapter(1.0))
    with pytest.raises(NotFound, match="there is 1"):
        world.store.adapters.set_alias("digits", "lora", "prod", 9)
    with pytest.raises(InvalidInput, match="moved by registration"):
        world.store.adapters.set_alias("digits", "lora", "latest", 1)


def test_of_two_movers_of_one_alias_one_wins(world: World) -> None:
    for value in (1.0, 2.0, 3.0):
        world.store.adapters.publish(world.draft(), world.adapter(value))
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    start, outcomes = threading.Barrier(2), []

    def move(version: int) -> None:
        start.wait()
        try:
            world.store.adapters.set_alias("digits", "lora", "prod", version, expected=1)
            outcomes.append("moved")
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=move, args=(version,)) for version in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict", "moved"]


def test_a_named_route_is_put_read_replaced_and_deleted(world: World) -> None:
    route = NamedRoute.of(task="digits", name="both", route="lora , ssf", temperature=1.5)
    world.store.routes.put(route)
    assert route.route == "lora, ssf"
    assert world.store.routes.get("digits", "both") == route
    other = NamedRoute.of(task="digits", name="both", route="lora")
    with pytest.raises(Conflict, match="has changed"):
        world.store.routes.put(other, expected=other)
    world.store.routes.put(other, expected=route)
    assert world.store.routes.list() == world.store.routes.list("digits") == [other]
    assert world.store.routes.list("else") == []
    with pytest.raises(NotFound, match="did you mean both"):
        world.store.routes.get("digits", "bot")
    world.store.routes.delete("digits", "both")
    with pytest.raises(NotFound, match="corolla routes put"):
        world.store.routes.delete("digits", "both")


def test_foreign_files_beside_the_format_are_left_alone(world: World) -> None:
    manifest = world.store.adapters.publish(world.draft(), world.adapter(1.0))
    for place in (
        "adapters/digits/lora/notes.txt",
        "tasks/README",
        "routes/digits/x/y/z",
        "backbones/.DS_Store",
    ):
        file = world.folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    assert world.store.adapters.list() == [AdapterId("digits", "lora")]
    assert world.store.tasks.list() == [world.task]
    assert world.store.routes.list() == []
    assert world.store.backbones.list() == [world.backbone]
    assert world.store.adapters.resolve(AdapterRef(name="lora"), "digits") == manifest


def test_a_store_in_memory_behaves_like_a_folder(tmp_path: Path) -> None:
    world = World(Store.open("memory:///"), tmp_path)
    first = world.store.adapters.publish(world.draft(), world.adapter(1.0))
    second = world.store.adapters.publish(world.draft(), world.adapter(2.0))
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    world.store.adapters.set_alias("digits", "lora", "prod", 2, expected=1)
    with pytest.raises(Conflict):
        world.store.adapters.set_alias("digits", "lora", "prod", 1, expected=1)
    assert world.store.adapters.versions("digits", "lora") == [first.version, second.version]
    assert world.store.adapters.aliases("digits", "lora") == {"latest": 2, "prod": 2}
    assert not list(tmp_path.iterdir())
