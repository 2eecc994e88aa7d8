"""What nothing in a store needs: rests of writes and deletions that were cut off, and what their owners left.

Finding them reads records, and writes nothing. A leftover does no harm: nothing resolves to it.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from model_store.collections.images import digests_in
from model_store.format import keys
from model_store.format.records import Manifest, TaskRecord
from model_store.names import LATEST, AdapterId
from model_store.place.objects import Place, Stamp
from model_store.store import Store
from petl_vit.errors import CorollaError, NotFound

KINDS = (
    keys.BACKBONES,
    keys.TASKS,
    keys.ADAPTERS,
    keys.ALIASES,
    keys.ROUTES,
    keys.IMAGES,
    keys.REFERENCES,
    keys.HISTORY,
)
READERS = 8
"""Records read at once."""


class Kind(StrEnum):
    """What has become of the owner of a leftover."""

    BACKBONE = "tensors of a backbone whose import was cut off"
    TASK = "base head of a task whose creation was cut off"
    VERSION = "tensors of a version that was never published"
    DELETION = "version whose deletion was cut off"
    LATEST = "alias `latest` of an adapter without versions"
    DEAD_LATEST = "alias `latest` that stands for a deleted version"
    NO_LATEST = "adapter whose publication was cut off before `latest` moved"
    IMAGES = "list of images that nothing in the store was trained on"
    REFERENCE = "reference of a route whose adapters are deleted"


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """One of them.

    Attributes:
        place: Its key; of `NO_LATEST`, where the alias would be.
        size: Bytes that removing it frees.
        modified: When its youngest file was written, by the place's clock.
    """

    place: str
    kind: Kind
    size: int
    modified: datetime


Listing = Mapping[str, Stamp]


def listing(place: Place) -> dict[str, Stamp]:
    """How all files of a store are listed, by key; what lies beside them is left out."""
    return {key: stamp for kind in KINDS for key, stamp in place.stamps(kind).items()}


def leftovers(
    store: Store, listed: Listing, note: Callable[[str], object] = lambda text: None
) -> list[Leftover]:
    """The leftovers among what is listed, by key, however young.

    Args:
        note: Told why lists of images and references could not be decided.
    """
    found = [*_without_record(listed), *_versions(listed), *_latest(listed), *_dead_latest(store, listed)]
    found += _unnamed(store, listed, note)
    return sorted(found, key=lambda leftover: leftover.place)


def _leftover(kind: Kind, listed: Listing, *files: str) -> Leftover:
    stamps = [listed[file] for file in files]
    return Leftover(
        place=files[0],
        kind=kind,
        size=sum(stamp.size for stamp in stamps),
        modified=max(stamp.modified for stamp in stamps),
    )


def _without_record(listed: Listing) -> Iterator[Leftover]:
    """Tensors of backbones and tasks whose record, which is written last, is missing."""
    for kind, tensors, record in (
        (Kind.BACKBONE, "backbone.safetensors", "backbone.json"),
        (Kind.TASK, "base_head.safetensors", "task.json"),
    ):
        for key in listed:
            folder, _, file = key.rpartition("/")
            if file == tensors and f"{folder}/{record}" not in listed:
                yield _leftover(kind, listed, key)


def _versions(listed: Listing) -> Iterator[Leftover]:
    manifests, tensors, tombstones = (
        set(keys.versions_in(listed, file))
        for file in (r"manifest\.json", r"adapter\.safetensors", r"deleted\.json")
    )
    signatures: dict[tuple[str, str, int], list[str]] = {}
    for key in keys.signatures_in(listed):
        signatures.setdefault(keys.version_of(key), []).append(key)
    for version in (manifests | tensors | signatures.keys()) & tombstones:
        files = [keys.adapter(*version, file) for file in ("adapter.safetensors", "manifest.json")]
        files += signatures.get(version, [])
        begun = listed[keys.adapter(*version, "deleted.json")].modified
        rest = _leftover(Kind.DELETION, listed, *(file for file in files if file in listed))
        yield replace(rest, modified=max(rest.modified, begun))
    for version in tensors - manifests - tombstones:
        yield _leftover(Kind.VERSION, listed, keys.adapter(*version, "adapter.safetensors"))


def _latest(listed: Listing) -> Iterator[Leftover]:
    buried = set(keys.versions_in(listed, r"deleted\.json"))
    published = set(keys.versions_in(listed, r"manifest\.json"))
    alive = {AdapterId(task, name) for task, name, _ in published - buried}
    dead = {AdapterId(task, name) for task, name, _ in buried} - alive
    named = {AdapterId(t, n) for t, n, alias in keys.all_aliases_in(listed) if alias == LATEST}
    for adapter in dead & named:
        yield _leftover(Kind.LATEST, listed, keys.alias(*adapter, LATEST))
    for adapter in alive - named:
        newest = max(version for version in published - buried if version[:2] == adapter)
        modified = listed[keys.adapter(*newest, "manifest.json")].modified
        yield Leftover(place=keys.alias(*adapter, LATEST), kind=Kind.NO_LATEST, size=0, modified=modified)


def _dead_latest(store: Store, listed: Listing) -> Iterator[Leftover]:
    """`latest` of adapters with versions, where it stands for one whose deletion is complete."""
    buried = set(keys.versions_in(listed, r"deleted\.json"))
    rest = set(keys.versions_in(listed, r"(?:manifest\.json|adapter\.safetensors)"))
    alive = {version[:2] for version in set(keys.versions_in(listed, r"manifest\.json")) - buried}
    for task, name in {version[:2] for version in buried - rest} & alive:
        key = keys.alias(task, name, LATEST)
        if key not in listed:
            continue
        with suppress(CorollaError):  # a damaged alias is a problem, and no leftover
            version = store.adapters.version_of(task, name, LATEST)
            if version is not None and (task, name, version) in buried - rest:
                begun = listed[keys.adapter(task, name, version, "deleted.json")].modified
                modified = max(listed[key].modified, begun)
                yield Leftover(place=key, kind=Kind.DEAD_LATEST, size=0, modified=modified)


def _unnamed(store: Store, listed: Listing, note: Callable[[str], object]) -> Iterator[Leftover]:
    """Lists of images and references, where every record that could name them can be read."""
    images, references = keys.images_in(listed), keys.references_in(listed)
    if not images and not references:
        return
    try:
        records = read_records(store, listed)
    except CorollaError as error:  # what cannot be read may name any of them
        note(f"lists of images and references stay, as a record that may name them cannot be read: {error}")
        return
    data = {digest for record in records for digest in digests_in(record.training)}
    for digest in images:
        if digest not in data:
            yield _leftover(Kind.IMAGES, listed, keys.images(digest))
    members = {record.digest for record in records}
    for key in (keys.reference(*digests) for digests in references):
        if not _members(store, key) <= members:
            yield _leftover(Kind.REFERENCE, listed, key)


def read_records(store: Store, listed: Listing) -> list[Manifest | TaskRecord]:
    """The records of all versions and tasks that are listed, but of those deleted since.

    Raises:
        CorollaError: One is damaged or cannot be read.
    """

    def manifest(version: tuple[str, str, int]) -> Manifest | None:
        try:
            return store.adapters.manifest(*version)
        except NotFound:
            return None

    def task(named: tuple[str, str]) -> TaskRecord | None:
        try:
            return store.tasks.with_digest(*named)
        except NotFound:
            return None

    with ThreadPoolExecutor(READERS) as readers:
        manifests = readers.map(manifest, keys.versions_in(listed, r"manifest\.json"))
        tasks = readers.map(task, keys.tasks_in(listed))
        return [record for record in (*manifests, *tasks) if record is not None]


def _members(store: Store, key: str) -> frozenset[str]:
    """The digests of what a reference's route computes with; none where it is damaged or gone."""
    route, data = key.removesuffix(".json").split("/")[1:]
    try:
        reference = store.references.get(route, data)
    except CorollaError:
        return frozenset()
    members = () if reference is None else reference.route.members
    return frozenset(term.digest for member in members for term in member.terms)
