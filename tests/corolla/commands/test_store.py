"""`corolla store`: verify, gc and copy, as people and scripts see them."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from corolla.commands.adapters import adapters
from corolla.commands.keys import keys
from corolla.commands.store import store
from model_store.store import Store
from petl_vit.errors import NotFound
from tests.corolla.runner import document, printed
from tests.model_store.world import World


def failing(*words: str, at: object) -> str:
    """What a command prints that exits with 1."""
    environment = {"COROLLA_STORE": str(at), "COLUMNS": "200"}
    result = CliRunner().invoke(store, words, env=environment)
    assert result.exit_code == 1, result.output
    return result.stdout


def test_a_whole_store_is_verified_and_damage_is_named_with_exit_code_1(published: World) -> None:
    said = printed(store, "verify", store=published.folder)
    assert "checked   1 backbones, 1 tasks, 2 adapters, 2 aliases" in said
    assert said.splitlines()[-1] == "problems  0"
    assert document(store, "verify", store=published.folder)["whole"] is True
    path = published.folder / "adapters/digits/ssf/1/adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    said = failing("verify", at=published.folder)
    assert said.startswith("adapters/digits/ssf/1/adapter.safetensors: digest ")
    assert "problems  1" in said
    (problem,) = json.loads(failing("verify", "--json", at=published.folder))["problems"]
    assert problem["place"] == "adapters/digits/ssf/1/adapter.safetensors"
    assert problem["remedy"]
    assert "problems  0" in printed(store, "verify", "--quick", store=published.folder)


def test_versions_that_nobody_vouches_for_are_named_with_exit_code_1(
    published: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, trusted, at = tmp_path / "release.key", tmp_path / "trusted", published.folder
    trusted.write_text(printed(keys, "create", str(key), store=at))
    printed(adapters, "sign", "lora", "--key", str(key), store=at)
    assert "1 signatures" in printed(store, "verify", store=at)
    said = failing("verify", "--trusted-keys", str(trusted), at=at)
    assert said.startswith(
        "adapters/digits/ssf/1/manifest.json: nobody who is trusted vouches for digits/ssf:1"
    )
    monkeypatch.setenv("COROLLA_TRUSTED_KEYS", str(trusted))
    (problem,) = json.loads(failing("verify", "--quick", "--json", at=at))["problems"]
    assert problem["place"] == "adapters/digits/ssf/1/manifest.json"
    printed(adapters, "sign", "ssf", "--key", str(key), store=at)
    assert "problems  0" in printed(store, "verify", store=at)


def test_garbage_is_shown_before_it_is_removed_and_young_things_stay(published: World) -> None:
    published.store.place.create("adapters/digits/lora/2/adapter.safetensors", b"x" * 2048)
    assert "leftovers 1, 2.0 KiB: corolla store gc" in printed(store, "verify", store=published.folder)
    assert "1 younger than the grace stay" in printed(store, "gc", store=published.folder)
    said = printed(store, "gc", "--grace", "0", "--dry-run", store=published.folder)
    assert said.splitlines()[-1] == "2.0 KiB would be freed"
    said = printed(store, "gc", "--grace", "0", store=published.folder)
    assert "1 x tensors of a version that was never published, 2.0 KiB" in said
    assert document(store, "gc", "--grace", "0", store=published.folder)["bytes"] == 0
    with pytest.raises(click.UsageError, match="is not a time"):
        printed(store, "gc", "--grace", "soon", store=published.folder)


def test_a_store_is_copied_and_what_differs_is_reported_with_exit_code_1(
    published: World, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    assert "would be copied" in printed(store, "copy", str(target), "--dry-run", store=published.folder)
    assert "; 0 were there" in printed(store, "copy", str(target), store=published.folder)
    assert document(store, "copy", str(target), store=published.folder)["copied"] == []
    Store.open(str(target)).adapters.publish(published.draft(), published.adapter(5.0))
    published.store.adapters.publish(published.draft(), published.adapter(6.0))
    said = failing("copy", str(target), at=published.folder)
    assert said.startswith("adapters/digits/lora/2/manifest.json: the target's is another: ")


def test_an_empty_store_is_not_copied_by_mistake(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="holds no backbone; name the store to copy from"):
        printed(store, "copy", str(tmp_path / "target"), store=tmp_path / "nothing")
