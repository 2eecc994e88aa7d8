"""Copying a store to another place: what is missing there, in an order that keeps the target whole.

Versions keep their numbers, records their bytes and signatures their validity. Nothing is removed or
replaced: where the target has something else, it stays and is reported. Killed at any point, the same again
goes on.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from model_store.collections.condemned import keep
from model_store.collections.tensor_files import write
from model_store.format import keys
from model_store.format.records import Tombstone
from model_store.leftovers import READERS, Listing, listing
from model_store.names import LATEST
from model_store.routes.algebra import AdapterRef
from model_store.store import Store
from petl_vit.errors import InvalidInput, NotFound


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where the target has something else, which stays."""

    place: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}; {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What was copied, or would be.

    Attributes:
        places: The keys of records and names, in order.
        size: Bytes, tensors included.
        present: How many records and names were there already.
        differences: Names that mean something else in the target, and versions whose number is taken there.
    """

    places: Sequence[str]
    size: int
    present: int
    differences: Sequence[Difference]


@dataclass(frozen=True, kw_only=True)
class _Item:
    """One record or name with what belongs to it: how it is copied, and its bytes.

    Attributes:
        lacking: Whether the target lacks it, or its tensors.
        renewed: Whether it is written again where it is there, so that no garbage collector takes it.
    """

    place: str
    size: int
    run: Callable[[], Difference | None]
    lacking: bool
    renewed: bool = False


def copy(
    source: Store,
    target: Store,
    *,
    dry_run: bool = False,
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> Copied:
    """Copy what the target lacks; tensors are checked by their digest on the way.

    Args:
        dry_run: Whether nothing is written.
        advance: Called with the number of items that are copied, and of all.

    Raises:
        InvalidInput: Source and target are one place.
        Corrupt: A file of the source is damaged; what was copied before stays.
    """
    if str(source) == str(target):
        raise InvalidInput(f"{source} is the source too", field="target", remedy="name another store")
    here, there = listing(source.place), listing(target.place)
    phases = list(_phases(source, target, here, there))
    every = [item for phase in phases for item in phase]
    compared = {i.place: _compare(source, target, i.place) for i in every if i.place in there}
    differences = [found for found in compared.values() if found is not None]
    differences += _buried(source, target, here, there)
    items = [item for item in every if item.lacking and compared.get(item.place) is None]
    lacking = {item.place for item in items}
    renewed = [item.place for item in every if item.renewed and not item.lacking] if items else []
    copied = items if dry_run else list[_Item]()
    for phase in () if dry_run else phases:
        missing = [item for item in phase if item.place in lacking]
        with ThreadPoolExecutor(READERS) as writers:
            for item, difference in zip(missing, writers.map(lambda one: one.run(), missing), strict=True):
                if difference is None:
                    copied.append(item)
                else:
                    differences.append(difference)
                advance(len(copied) + len(differences), len(items) + len(differences))
            list(writers.map(lambda one: one.run(), [one for one in phase if one.place in renewed]))
    if not dry_run:
        _advance_latest(source, target, here)
    return Copied(
        places=[item.place for item in copied],
        size=sum(item.size for item in copied),
        present=len(every) - len(items),
        differences=differences,
    )


def _phases(source: Store, target: Store, here: Listing, there: Listing) -> Iterator[list[_Item]]:
    """What is copied, each phase standing on those before it."""

    def item(place: str, run: Callable[[], Difference | None], *more: str, renewed: bool = False) -> _Item:
        lacks = [key for key in (place, *more) if key not in there]
        size = sum(here[key].size for key in lacks if key in here)
        return _Item(place=place, size=size, run=run, lacking=bool(lacks), renewed=renewed)

    def plain(found: Sequence[str]) -> list[_Item]:
        return [item(key, partial(_plain, source, target, key)) for key in found]

    def renewed(found: Sequence[str]) -> list[_Item]:
        return [item(key, partial(_renewed, source, target, key), renewed=True) for key in found]

    backbones = [(d, keys.backbone(d, "backbone.safetensors")) for d in keys.backbones_in(here)]
    yield [
        item(keys.backbone(d, "backbone.json"), partial(_backbone, source, target, d), data)
        for d, data in backbones
    ]
    yield [
        item(
            keys.task(*task, "task.json"),
            partial(_task, source, target, *task),
            keys.task(*task, "base_head.safetensors"),
        )
        for task in keys.tasks_in(here)
    ]
    yield renewed([keys.images(digest) for digest in keys.images_in(here)])
    buried = {t for place in (here, there) for t in keys.versions_in(place, r"deleted\.json")}
    known = set(keys.versions_in(there, r"manifest\.json"))
    tombstones = [v for v in keys.versions_in(here, r"deleted\.json") if v not in known]
    yield plain([keys.adapter(*version, "deleted.json") for version in tombstones])
    yield [
        item(
            keys.adapter(*version, "manifest.json"),
            partial(_adapter, source, target, *version),
            keys.adapter(*version, "adapter.safetensors"),
        )
        for version in keys.versions_in(here, r"manifest\.json")
        if version not in buried
    ]
    signatures = [key for key in keys.signatures_in(here) if keys.version_of(key) not in buried]
    yield [item(key, partial(_signature, source, target, key)) for key in signatures]
    yield renewed([keys.reference(*digests) for digests in keys.references_in(here)])
    named = here.keys() - there.keys()
    yield plain([key for key in keys.history_in(here) if key in there or _named_by(key) in named])
    aliases = [(keys.alias(*one), partial(_alias, source, target, *one)) for one in keys.all_aliases_in(here)]
    yield [item(place, run) for place, run in aliases]
    routes = [(keys.route(*one), partial(_route, source, target, *one)) for one in keys.routes_in(here)]
    yield [item(place, run) for place, run in routes]


def _plain(source: Store, target: Store, key: str) -> Difference | None:
    data = source.place.read(key)
    if data is not None:
        target.place.create(key, data)
    return None


def _renewed(source: Store, target: Store, key: str) -> Difference | None:
    """Copies a file, or makes the target's young: a garbage collector knows nothing yet that needs it."""
    data = source.place.read(key)
    if data is None:
        return None
    if not target.place.create(key, data):
        with target.place.exclusive():
            theirs = target.place.read(key)
            if theirs is not None:
                target.place.renew(key, theirs)
        data = theirs or data
    keep(target.place, key, data)
    return None


def _signature(source: Store, target: Store, key: str) -> Difference | None:
    """Copies a signature to a version that the target has, with the same record."""
    manifest = keys.adapter(*keys.version_of(key), "manifest.json")
    record = target.place.read(manifest)
    if record is None or record != source.place.read(manifest):
        return None
    return _plain(source, target, key)


def _backbone(source: Store, target: Store, digest: str) -> Difference | None:
    data = source.backbones.file(source.backbones.with_digest(digest))
    key = keys.backbone(digest, "backbone.safetensors")
    write(target.place, key, data)
    _plain(source, target, keys.backbone(digest, "backbone.json"))
    keep(target.place, key, data)
    return None


def _task(source: Store, target: Store, name: str, digest: str) -> Difference | None:
    record = source.tasks.with_digest(name, digest)
    data = source.tasks.base_head_file(record)
    key = keys.task(name, digest, "base_head.safetensors")
    write(target.place, key, data)
    _plain(source, target, keys.task(name, digest, "task.json"))
    keep(target.place, key, data)
    return None


def _adapter(source: Store, target: Store, task: str, name: str, version: int) -> Difference | None:
    try:
        manifest = source.adapters.manifest(task, name, version)
    except NotFound:
        return None  # deleted meanwhile
    place, key = (keys.adapter(task, name, version, f) for f in ("manifest.json", "adapter.safetensors"))
    data, record = source.adapters.file(manifest), source.place.read(place)
    taken = not target.place.create(key, data) and target.place.read(key) != data
    if taken or record is None or not target.adapters.adopt(manifest, record):
        return Difference(
            place=place,
            problem="the target has begun or deleted another version of this number",
            remedy="publish the adapter there by `corolla adapters export` and `import`",
        )
    return None


def _alias(source: Store, target: Store, task: str, name: str, alias: str) -> Difference | None:
    version = source.adapters.version_of(task, name, alias)
    ref = AdapterRef(task=task, name=name, version=version)
    return _name(source, target, keys.alias(task, name, alias), (ref,))


def _route(source: Store, target: Store, task: str, name: str) -> Difference | None:
    refs = source.routes.get(task, name).parsed().adapters
    whole = (replace(ref, task=ref.task or task) for ref in refs if not ref.is_base)
    return _name(source, target, keys.route(task, name), tuple(whole))


def _name(source: Store, target: Store, place: str, refs: tuple[AdapterRef, ...]) -> Difference | None:
    """Copies a name, if what it names is in the target, and is the same where it names a version."""
    for ref in refs:
        try:
            digests = {store.adapters.resolve(ref, ref.task or "").digest for store in (source, target)}
            same = len(digests) == 1 or ref.version is None
        except NotFound:
            same = False
        if not same:
            return Difference(
                place=place,
                problem=f"{ref} is not in the target, or is another there",
                remedy="point it there at a version with `corolla adapters alias` or `corolla routes put`",
            )
    return _plain(source, target, place)


def _compare(source: Store, target: Store, place: str) -> Difference | None:
    """What the target has in the place of the source's, if it means something else."""
    kind = place.partition("/")[0]
    if kind not in (keys.ADAPTERS, keys.ALIASES, keys.ROUTES) or not _is_name(place):
        return None
    ours, theirs = source.place.read(place), target.place.read(place)
    if ours == theirs or ours is None or theirs is None:
        return None
    if kind == keys.ADAPTERS:
        digests = [s.adapters.manifest(*keys.version_of(place)).digest for s in (source, target)]
        if digests[0] == digests[1]:
            return None
        return Difference(
            place=place,
            problem=f"the target's is another: {digests[1][:12]} instead of {digests[0][:12]}",
            remedy="publish the adapter there by `corolla adapters export` and `import`",
        )
    if place.endswith(f"/{LATEST}"):
        return None  # moves on by itself
    return Difference(
        place=place,
        problem="it means something else in the target, where it stays",
        remedy="move it there with `corolla adapters alias` or `corolla routes put`",
    )


def _buried(source: Store, target: Store, here: Listing, there: Listing) -> Iterator[Difference]:
    """The versions whose numbers the target has given up, for another version or for none."""
    files = (r"manifest\.json", r"deleted\.json")
    published, deleted = (set(keys.versions_in(here, file)) for file in files)
    for version in sorted((published - deleted) & set(keys.versions_in(there, files[1]))):
        tombstone = keys.adapter(*version, "deleted.json")
        data = target.place.read(tombstone)
        try:
            digest = source.adapters.manifest(*version).digest
        except NotFound:
            continue  # deleted meanwhile
        if data is not None and Tombstone.parse(data, tombstone).digest != digest:
            yield Difference(
                place=keys.adapter(*version, "manifest.json"),
                problem="the target never had it, and has given up its number",
                remedy="publish the adapter there by `corolla adapters export` and `import`",
            )


def _named_by(record: str) -> str:
    """The key of the alias or route that a record of the history is of."""
    return record.removeprefix(f"{keys.HISTORY}/").rpartition("/")[0]


def _is_name(place: str) -> bool:
    return place.endswith("/manifest.json") or not place.startswith(f"{keys.ADAPTERS}/")


def _advance_latest(source: Store, target: Store, here: Listing) -> None:
    """`latest` moves on to the source's, never backwards, and only to the same version, if it is there."""
    for task, name, alias in keys.all_aliases_in(here):
        version = source.adapters.version_of(task, name, alias) if alias == LATEST else None
        if version is None or target.place.exists(keys.adapter(task, name, version, "deleted.json")):
            continue
        with suppress(NotFound):
            digests = {store.adapters.manifest(task, name, version).digest for store in (source, target)}
            if len(digests) == 1:
                target.adapters.advance_latest(task, name, version)
