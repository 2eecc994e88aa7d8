from pathlib import Path

import platformdirs
import pytest

from model_store.names import AdapterId
from model_store.routes.algebra import AdapterRef
from model_store.store import Store
from petl_vit.errors import Conflict, CorollaError, InvalidInput
from tests.model_store.world import World

TRAVERSALS = ["..", "../escape", "a/b", "", "A", ".hidden", "a" * 64, "a\x00b", "a\n", "1st"]


def test_the_default_store_is_in_the_users_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platformdirs, "user_data_dir", lambda *_, **__: str(tmp_path / "corolla"))
    assert Store.open().backbones.list() == []
    assert (tmp_path / "corolla" / "store").is_dir()


def test_a_user_without_a_home_has_to_name_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(*_: object, **__: object) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(platformdirs, "user_data_dir", folder)
    with pytest.raises(InvalidInput, match="no home folder; name a store with --store or COROLLA_STORE"):
        Store.open()


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
