"""Signed versions: who vouches for them, and what is refused before a tensor is read."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from model_store.format.records import Manifest
from model_store.format.signature import KIND, SigningKey, create_key, fingerprint
from model_store.format.trust import Trusted, TrustedKeys
from model_store.store import Store
from petl_vit.errors import Corrupt, InvalidInput, NotFound, Untrusted
from tests.model_store.world import World


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    create_key(tmp_path / "release.key", "the release team")
    return SigningKey.read(tmp_path / "release.key")


@pytest.fixture
def trusted_file(tmp_path: Path, key: SigningKey) -> Path:
    path = tmp_path / "trusted_keys"
    path.write_text(f"# who may\n\n{(tmp_path / 'release.key.pub').read_text()}")
    return path


@pytest.fixture
def wary(world: World, trusted_file: Path) -> Store:
    """The world's store, as somebody opens it who asks for signatures."""
    return Store.open(str(world.folder), trusted=TrustedKeys(trusted_file))


@pytest.fixture
def manifest(world: World) -> Manifest:
    return world.store.adapters.publish(world.draft(), world.adapter(1.0))


def signature_file(world: World, manifest: Manifest) -> Path:
    (path,) = (world.folder / "adapters/digits/lora" / str(manifest.version) / "signatures").iterdir()
    return path


def test_a_signed_version_is_loaded_and_an_unsigned_one_is_not(
    world: World, wary: Store, manifest: Manifest, key: SigningKey
) -> None:
    with pytest.raises(Untrusted, match=r"digits/lora:1 \(it has no signature\); sign it with"):
        wary.adapters.load(manifest)
    world.store.adapters.sign(manifest, key)
    assert wary.adapters.load(manifest).keys() == world.adapter(1.0).keys()
    assert world.store.adapters.load(manifest)  # who asks for no signature needs none


def test_a_signature_by_an_unknown_key_is_named_and_counts_for_nothing(
    world: World, wary: Store, manifest: Manifest, tmp_path: Path
) -> None:
    create_key(tmp_path / "other.key")
    other = SigningKey.read(tmp_path / "other.key")
    world.store.adapters.sign(manifest, other)
    with pytest.raises(Untrusted, match=r"signatures by SHA256:") as refused:
        wary.adapters.load(manifest)
    assert fingerprint(other.public) in str(refused.value)


def test_a_signature_is_of_one_version_under_one_name(
    world: World, wary: Store, manifest: Manifest, key: SigningKey
) -> None:
    world.store.adapters.sign(manifest, key)
    signature = signature_file(world, manifest)
    copy = world.store.adapters.publish(world.draft("copied"), world.adapter(1.0))
    folder = world.folder / "adapters/digits/copied/1/signatures"
    folder.mkdir()
    (folder / signature.name).write_bytes(signature.read_bytes())
    assert copy.digest == manifest.digest  # the same tensors, which were signed
    with pytest.raises(Untrusted, match="the release team, but of another manifest"):
        wary.adapters.load(copy)


def test_a_manifest_that_was_changed_after_it_was_signed_is_refused(
    world: World, wary: Store, manifest: Manifest, key: SigningKey
) -> None:
    world.store.adapters.sign(manifest, key)
    path = world.folder / "adapters/digits/lora/1/manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"temperature": 1.0', b'"temperature": 9.0'))
    with pytest.raises(Corrupt, match="changed since it was read"):
        wary.adapters.load(manifest)
    with pytest.raises(Untrusted, match="of another manifest"):
        wary.adapters.load(wary.adapters.manifest("digits", "lora", 1))


def test_tensors_that_were_changed_after_they_were_signed_are_refused(
    world: World, wary: Store, manifest: Manifest, key: SigningKey
) -> None:
    world.store.adapters.sign(manifest, key)
    path = world.folder / "adapters/digits/lora/1/adapter.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt):
        wary.adapters.load(manifest)
    with pytest.raises(Corrupt):  # nothing that is damaged is signed
        world.store.adapters.sign(manifest, key)


def test_a_digest_in_the_file_stands_for_a_signature(
    world: World, manifest: Manifest, tmp_path: Path
) -> None:
    path = tmp_path / "digests"
    path.write_text(f"{manifest.digest} reviewed by hand\n")
    wary = Store.open(str(world.folder), trusted=TrustedKeys(path))
    assert wary.adapters.load(manifest)
    second = world.store.adapters.publish(world.draft(), world.adapter(2.0))
    with pytest.raises(Untrusted):
        wary.adapters.load(second)


def test_signing_twice_keeps_the_signature_and_two_keys_have_one_each(
    world: World, manifest: Manifest, key: SigningKey, tmp_path: Path
) -> None:
    first = world.store.adapters.sign(manifest, key)
    assert world.store.adapters.sign(manifest, key) == first
    create_key(tmp_path / "next.key")
    world.store.adapters.sign(manifest, SigningKey.read(tmp_path / "next.key"))
    assert len(world.store.adapters.signatures.of(manifest)) == 2


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", None])
def test_a_damaged_signature_is_no_signature(
    world: World, wary: Store, manifest: Manifest, key: SigningKey, damage: bytes | None
) -> None:
    world.store.adapters.sign(manifest, key)
    path = signature_file(world, manifest)
    if damage is None:
        damage = json.dumps(json.loads(path.read_bytes()) | {"signature": "not base64!"}).encode()
    path.write_bytes(damage)
    with pytest.raises(Untrusted):
        wary.adapters.load(manifest)
    world.store.adapters.sign(manifest, key)  # which replaces it
    assert wary.adapters.load(manifest)


def test_a_deleted_version_takes_its_signatures_along(
    world: World, manifest: Manifest, key: SigningKey
) -> None:
    world.store.adapters.sign(manifest, key)
    world.store.adapters.remove("digits", "lora", 1)
    assert not world.store.place.keys("adapters/digits/lora/1/signatures")


def test_what_is_wrong_with_the_signatures_of_a_version_is_said_by_file(
    world: World, manifest: Manifest, key: SigningKey, tmp_path: Path
) -> None:
    signatures = world.store.adapters.signatures
    world.store.adapters.sign(manifest, key)
    assert signatures.problems(manifest) == []
    path = signature_file(world, manifest)
    good = path.read_bytes()
    path.with_name(f"{'e' * 64}.json").write_bytes(good)
    (problem,) = signatures.problems(manifest)
    assert problem.field == f"adapters/digits/lora/1/signatures/{'e' * 64}.json"
    assert "not the one that its name says" in problem.problem
    path.write_bytes(b"{}")
    assert ["format_version" in str(problem) for problem in signatures.problems(manifest)] == [True, False]


def test_a_changed_file_of_keys_is_followed_and_a_damaged_one_changes_nothing(
    world: World, wary: Store, manifest: Manifest, key: SigningKey, trusted_file: Path
) -> None:
    world.store.adapters.sign(manifest, key)
    good = trusted_file.read_text()
    trusted_file.write_text(f"{good}nonsense\n")
    assert wary.adapters.load(manifest)
    trusted_file.unlink()
    assert wary.adapters.load(manifest)
    trusted_file.write_text("0" * 64)
    with pytest.raises(Untrusted):
        wary.adapters.load(manifest)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "names no key and no digest"),
        ("# nothing\n", "names no key and no digest"),
        ("0" * 63, "line 1 of keys is neither"),
        (f"\n{KIND} AAAA me", "line 2 of keys is neither"),
        ("ssh-rsa AAAAB3NzaC1yc2E= me", "line 1 of keys is neither"),
        (f"{KIND}", "line 1 of keys is neither"),
    ],
)
def test_a_file_of_keys_that_cannot_be_meant_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        Trusted.parse(text, "keys")


@pytest.mark.parametrize("mode", [0o666, 0o660, 0o602])
def test_a_file_of_keys_that_others_may_write_is_refused(trusted_file: Path, mode: int) -> None:
    trusted_file.chmod(mode)
    with pytest.raises(InvalidInput, match=f"others may write .* chmod go-w {trusted_file}"):
        TrustedKeys(trusted_file)


def test_a_file_of_keys_that_is_not_there_is_refused(trusted_file: Path) -> None:
    with pytest.raises(NotFound):
        TrustedKeys(trusted_file.with_name("missing"))


def test_a_private_key_is_for_its_owner_alone_and_never_overwritten(tmp_path: Path, key: SigningKey) -> None:
    path = tmp_path / "release.key"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InvalidInput, match="exists"):
        create_key(path)
    path.chmod(0o644)
    with pytest.raises(InvalidInput, match="chmod 600"):
        SigningKey.read(path)
    assert "PRIVATE" not in repr(key)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"])
def test_what_is_no_private_key_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="not a private Ed25519 key") as refused:
        SigningKey.read(path)
    assert refused.value.__cause__ is None
    with pytest.raises(NotFound):
        SigningKey.read(tmp_path / "missing.key")


@pytest.mark.skipif(
    not any(Path(p, "ssh-keygen").exists() for p in os.get_exec_path()), reason="no ssh-keygen"
)
def test_keys_of_openssh_are_read(tmp_path: Path) -> None:
    path = tmp_path / "ssh.key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    assert Trusted.parse(path.with_suffix(".key.pub").read_text(), "keys").keys.keys() == {
        SigningKey.read(path).public
    }
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret words", "-f", path], check=True)
    with pytest.raises(InvalidInput, match="without a passphrase"):
        SigningKey.read(path)
