"""What a verification reports: what names and records promise and the store does not hold."""

from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.format import keys
from model_store.format.records import Alias, ExactVersion, NamedRoute
from model_store.format.signature import KIND, SigningKey, create_key, fingerprint, name_of
from model_store.format.trust import Trusted
from model_store.leftovers import Kind
from model_store.store import Store
from model_store.verification import verify
from petl_vit.errors import Unreachable
from tests.model_store.references import usable_reference
from tests.model_store.world import World


@pytest.fixture
def two(world: World) -> World:
    """Two versions of one adapter, an alias, a route, a list of images and a reference."""
    store = world.store
    for value in (1.0, 2.0):
        store.adapters.publish(world.draft(), world.adapter(value))
    store.adapters.set_alias("digits", "lora", "prod", 1)
    pinned = ExactVersion(adapter="digits/lora:1", digest=store.adapters.manifest("digits", "lora", 1).digest)
    store.routes.put(NamedRoute(task="digits", name="live", route="lora:1", versions=(pinned,)))
    return world


def files(world: World, pattern: str) -> Path:
    (path,) = world.folder.glob(pattern)
    return path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_a_whole_store_has_no_problems_and_says_what_was_checked(two: World) -> None:
    steps: list[tuple[int, int]] = []
    report = verify(two.store, advance=lambda done, total: steps.append((done, total)))
    assert report.whole, report.problems
    assert not report.leftovers
    assert report.checked["backbones"] == report.checked["tasks"] == report.checked["routes"] == 1
    assert report.checked["adapters"] == report.checked["aliases"] == 2
    assert report.size == sum(p.stat().st_size for p in two.folder.rglob("*") if p.is_file())
    assert steps[-1] == (sum(report.checked.values()),) * 2


Damage = Callable[[World], None]


def unlink(pattern: str) -> Damage:
    return lambda world: files(world, pattern).unlink()


def rewrite(pattern: str, old: str, new: str) -> Damage:
    def damage(world: World) -> None:
        path = files(world, pattern)
        path.write_text(path.read_text().replace(old, new))

    return damage


def put_with_other_digest(world: World) -> None:
    path = files(world, "routes/digits/live")
    route = NamedRoute.parse(path.read_bytes(), "routes/digits/live")
    other = route.versions[0].model_copy(update={"digest": "0" * 64})
    path.write_bytes(route.model_copy(update={"versions": (other,)}).encode())


def remove_version(world: World) -> None:
    for path in world.folder.glob("adapters/digits/lora/1/*"):
        path.unlink()


DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "a flipped bit of a backbone": (
        lambda world: flip(files(world, "backbones/*/*.safetensors")),
        "backbone.safetensors",
        "digest",
    ),
    "a flipped bit of a base head": (
        lambda world: flip(files(world, "tasks/digits/*/*.safetensors")),
        "base_head.safetensors",
        "digest",
    ),
    "a flipped bit of an adapter": (
        lambda world: flip(files(world, "adapters/digits/lora/2/*.safetensors")),
        "adapters/digits/lora/2/adapter.safetensors",
        "digest",
    ),
    "tensors without which a record stands": (
        unlink("adapters/digits/lora/2/*.safetensors"),
        "adapters/digits/lora/2/adapter.safetensors",
        "missing",
    ),
    "a manifest that is not JSON": (
        rewrite("adapters/digits/lora/2/manifest.json", "{", "["),
        "adapters/digits/lora/2/manifest.json",
        "not JSON",
    ),
    "a manifest in another's place": (
        rewrite("adapters/digits/lora/2/manifest.json", '"version": 2', '"version": 7'),
        "adapters/digits/lora/2/manifest.json",
        "says it is digits/lora:7",
    ),
    "a task that is gone": (unlink("tasks/digits/*/task.json"), "manifest.json", "its task 'digits'"),
    "a backbone that is gone": (unlink("backbones/*/backbone.json"), "task.json", "its backbone"),
    "an alias of nothing": (remove_version, "aliases/digits/lora/prod", "version 1, which does not exist"),
    "a route of nothing": (remove_version, "routes/digits/live", "no version 1"),
    "a route whose version is another now": (
        put_with_other_digest,
        "routes/digits/live",
        "digest",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_reported_with_its_place_and_a_remedy(two: World, name: str) -> None:
    damage, place, words = DAMAGES[name]
    damage(two)
    report = verify(two.store)
    assert not report.whole
    matching = [problem for problem in report.problems if problem.place.endswith(place)]
    assert any(words in problem.problem for problem in matching), report.problems
    assert all(problem.remedy for problem in report.problems)


def test_without_tensors_a_missing_file_is_noticed_and_a_flipped_bit_is_not(two: World) -> None:
    flip(files(two, "adapters/digits/lora/1/*.safetensors"))
    assert verify(two.store, tensors=False).whole
    files(two, "adapters/digits/lora/1/*.safetensors").unlink()
    (problem,) = verify(two.store, tensors=False).problems
    assert (problem.place, problem.problem) == (
        "adapters/digits/lora/1/adapter.safetensors",
        "the file is missing",
    )


def test_a_list_of_images_that_a_version_names_and_that_is_missing_is_a_problem(two: World) -> None:
    draft = two.draft("taught").model_copy(update={"training": {"data_digest": "d" * 64}})
    two.store.images.put("d" * 64, ["0" * 16])
    two.store.adapters.publish(draft, two.adapter(5.0))
    assert verify(two.store).whole
    two.store.place.delete(keys.images("d" * 64))
    assert [(p.place, p.problem) for p in verify(two.store).problems] == [
        (keys.images("d" * 64), "the file is missing")
    ]


def test_what_was_cut_off_is_a_leftover_and_not_a_problem(two: World) -> None:
    store, place = two.store, two.store.place
    place.create(keys.adapter("digits", "lora", 3, "adapter.safetensors"), b"half")
    place.create(keys.backbone("b" * 64, "backbone.safetensors"), b"half")
    place.create(keys.task("cats", "c" * 64, "base_head.safetensors"), b"half")
    store.images.put("d" * 64, ["0" * 16])
    store.references.put(usable_reference("gone"))
    place.create(keys.adapter("digits", "gone", 1, "deleted.json"), b"{}")
    place.create(keys.alias("digits", "gone", "latest"), Alias(version=1).encode())
    store.adapters.publish(two.draft("cut"), two.adapter(5.0))
    place.delete(keys.alias("digits", "cut", "latest"))
    store.adapters.publish(two.draft("late"), two.adapter(6.0))
    place.create(keys.adapter("digits", "late", 2, "deleted.json"), b"{}")
    place.swap(keys.alias("digits", "late", "latest"), lambda _: Alias(version=2).encode())
    report = verify(store)
    assert report.whole, report.problems
    assert {leftover.kind for leftover in report.leftovers} == set(Kind) - {Kind.DELETION}
    sizes = {leftover.place: leftover.size for leftover in report.leftovers}
    assert sizes["adapters/digits/lora/3/adapter.safetensors"] == 4


def test_an_alias_of_a_deleted_version_is_a_problem_and_half_a_deletion_is_not(two: World) -> None:
    place = two.store.place
    place.create(keys.adapter("digits", "lora", 2, "deleted.json"), b"{}")
    report = verify(two.store)
    assert report.whole, report.problems
    assert [leftover.kind for leftover in report.leftovers] == [Kind.DELETION]
    two.store.adapters.remove("digits", "lora", 1)
    problems = {problem.place: problem.problem for problem in verify(two.store).problems}
    assert problems["aliases/digits/lora/prod"] == "it stands for version 1, which was deleted"


def test_what_is_deleted_while_it_is_checked_is_not_a_problem(two: World) -> None:
    store = two.store

    class Deleting(type(store.place)):  # type: ignore[misc]
        """Deletes version 2 when its tensors are first read."""

        def read(self, key: str) -> bytes | None:
            if key.endswith("lora/2/adapter.safetensors"):
                store.adapters.remove("digits", "lora", 2)
            return store.place.read(key)

    report = verify(Store(Deleting.open(str(two.folder))))
    assert report.whole, report.problems


@pytest.fixture
def keys_made(tmp_path: Path) -> list[SigningKey]:
    """Of two people."""
    for name in ("release.key", "other.key"):
        create_key(tmp_path / name, name)
    return [SigningKey.read(tmp_path / name) for name in ("release.key", "other.key")]


def sign(world: World, version: int, key: SigningKey) -> Path:
    """Signs a version; the signature's file."""
    adapters = world.store.adapters
    adapters.sign(adapters.manifest("digits", "lora", version), key)
    return world.folder / keys.signature("digits", "lora", version, name_of(key.public))


def trusting(*lines: str) -> Trusted:
    return Trusted.parse("\n".join(lines), "keys")


def test_versions_that_nobody_who_is_trusted_vouches_for_are_problems(
    two: World, keys_made: list[SigningKey]
) -> None:
    release, other = keys_made
    sign(two, 1, release)
    sign(two, 2, other)
    assert verify(two.store).whole
    report = verify(two.store, trusted=trusting(f"{KIND} {release.public}"))
    assert [problem.place for problem in report.problems] == ["adapters/digits/lora/2/manifest.json"]
    assert f"signatures by {fingerprint(other.public)}" in report.problems[0].problem
    assert "corolla adapters sign" in report.problems[0].remedy
    assert (report.checked["adapters"], report.checked["signatures"]) == (2, 2)
    digest = two.store.adapters.manifest("digits", "lora", 2).digest
    assert verify(two.store, trusted=trusting(f"{KIND} {release.public}", digest)).whole
    flip(files(two, "adapters/digits/lora/2/*.safetensors"))
    report = verify(two.store, trusted=trusting(f"{KIND} {release.public}"))
    assert [problem.place.rpartition("/")[2] for problem in report.problems] == [
        "adapter.safetensors",
        "manifest.json",
    ], "damage is not hidden by what is missing"


def move_to(version: str) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        folder = path.parents[2] / version / "signatures"
        folder.mkdir(parents=True)
        path.rename(folder / path.name)

    return damage


def change_manifest(signature: Path) -> None:
    path = signature.parents[1] / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"temperature": 1.0', b'"temperature": 9.0'))


SIGNATURE_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "not JSON": (lambda path: path.write_bytes(b"\xff"), "not JSON"),
    "empty": (lambda path: path.write_bytes(b""), "not JSON"),
    "a field less": (lambda path: path.write_bytes(b'{"format_version": 1}'), "field 'key'"),
    "another key's name": (lambda path: path.rename(path.with_name(f"{'e' * 64}.json")), "its name says"),
    "of another version": (move_to("2"), "has not signed this manifest"),
    "of a changed manifest": (change_manifest, "has not signed this manifest"),
    "of no version": (move_to("7"), "does not exist"),
}


@pytest.mark.parametrize("name", SIGNATURE_DAMAGES)
def test_a_signature_that_is_damaged_or_not_of_its_version_is_a_problem(
    two: World, keys_made: list[SigningKey], name: str
) -> None:
    damage, words = SIGNATURE_DAMAGES[name]
    damage(sign(two, 1, keys_made[0]))
    (problem,) = verify(two.store).problems
    assert "/signatures/" in problem.place
    assert words in problem.problem
    assert problem.remedy


def test_signatures_of_a_deleted_version_are_leftovers_and_not_problems(
    two: World, keys_made: list[SigningKey]
) -> None:
    path = sign(two, 2, keys_made[0])
    signature = path.read_bytes()
    two.store.adapters.remove("digits", "lora", 2)
    path.write_bytes(signature)  # as if the deletion had been killed before it came to them
    report = verify(two.store)
    assert report.whole, report.problems
    assert [(left.kind, left.size) for left in report.leftovers] == [(Kind.DELETION, len(signature))]


def test_a_place_that_cannot_be_listed_is_an_error_and_not_an_empty_store(two: World, tmp_path: Path) -> None:
    class Lost(type(two.store.place)):  # type: ignore[misc]
        def stamps(self, prefix: str) -> dict[str, object]:
            raise Unreachable("it does not answer", field=prefix)

    with pytest.raises(Unreachable, match="does not answer"):
        verify(Store(Lost.open(str(tmp_path / "other"))))
