"""`corolla keys`, `corolla adapters sign` and `verify`."""

from pathlib import Path

import pytest

from corolla.commands.adapters import adapters
from corolla.commands.keys import keys
from petl_vit.errors import InvalidInput, Untrusted
from tests.corolla.runner import document, printed
from tests.model_store.world import World


def test_a_version_is_signed_and_verified_by_the_key_that_was_made(published: World, tmp_path: Path) -> None:
    key, trusted, store = tmp_path / "release.key", tmp_path / "trusted", published.folder
    trusted.write_text(printed(keys, "create", str(key), "--comment", "the team", store=store))
    with pytest.raises(Untrusted):
        printed(adapters, "verify", "lora", "--trusted-keys", str(trusted), store=store)
    signed = document(adapters, "sign", "digits/lora", "--key", str(key), store=store)
    assert signed["adapter"] == "digits/lora:1"
    verified = document(adapters, "verify", "lora", "--trusted-keys", str(trusted), store=store)
    assert verified["trusted"] == "the team"
    assert [each["intact"] for each in verified["signatures"]] == [True]
    assert "trusted by the team" in printed(
        adapters, "verify", "lora", "--trusted-keys", str(trusted), store=store
    )
    assert "signed by nobody" in printed(adapters, "verify", "ssf", store=store)


def test_a_damaged_signature_is_named(published: World, tmp_path: Path) -> None:
    key, store = tmp_path / "release.key", published.folder
    printed(keys, "create", str(key), store=store)
    printed(adapters, "sign", "lora", "--key", str(key), store=store)
    (path,) = store.glob("adapters/digits/lora/1/signatures/*")
    path.write_text("{}")
    said = printed(adapters, "verify", "lora", store=store)
    assert "signed by nobody" in said
    assert f"NOT a signature: adapters/digits/lora/1/signatures/{path.name}: " in said
    (problem,) = document(adapters, "verify", "lora", store=store)["problems"]
    assert path.name in problem


def test_the_public_half_of_a_key_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "release.key"
    made = document(keys, "create", str(path), store=tmp_path)
    shown = document(keys, "show", str(path), store=tmp_path)
    assert shown == made
    assert path.with_name("release.key.pub").read_text().strip() == made["public_key"]


def test_a_key_is_not_made_over_another_or_without_a_folder(tmp_path: Path) -> None:
    (tmp_path / "k.pub").touch()
    for path, problem in (("k", r"k\.pub exists"), ("no/k", "cannot be written")):
        with pytest.raises(InvalidInput, match=problem):
            printed(keys, "create", str(tmp_path / path), store=tmp_path)
    assert not (tmp_path / "k").exists()
