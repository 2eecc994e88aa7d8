"""Is a store whole? Reads everything in it, and writes nothing; writers may go on meanwhile.

A problem is something that a name or a record promises and the store does not hold. Rests of what was cut off
are not problems: they are listed apart, and `corolla store gc` removes them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from model_store.collections.images import digests_in
from model_store.format import keys
from model_store.format.records import Audit, ExactVersion, Manifest, NamedRoute, TaskRecord
from model_store.format.trust import Trusted
from model_store.leftovers import READERS, Leftover, Listing, leftovers, listing
from model_store.names import LATEST
from model_store.routes.algebra import AdapterRef
from model_store.routes.text import parse_adapter
from model_store.store import Store
from petl_vit.errors import CorollaError, Corrupt, InvalidInput, NotFound, Unreachable

_RESTORE = "restore it from a backup, or remove it"
_UNREACHABLE = 8  # so many unreadable files mean that the place is gone


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong, where (a key), and what to do about it."""

    place: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}; {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a verification found.

    Attributes:
        checked: How many of each kind, by its folder.
        size: Bytes of all files.
        problems: By place; a whole store has none.
        leftovers: What was cut off or left behind. It does no harm.
    """

    checked: dict[str, int] = field(default_factory=dict)
    size: int = 0
    problems: Sequence[Problem] = ()
    leftovers: Sequence[Leftover] = ()

    @property
    def whole(self) -> bool:
        return not self.problems


_Check = Callable[[], object]


def verify(
    store: Store,
    *,
    tensors: bool = True,
    trusted: Trusted | None = None,
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> Report:
    """Check every record, every digest, every reference and every signature of a store.

    What is deleted or moved while it is being checked is not a problem: each one is looked at again before it
    is reported.

    Args:
        store: Opened without a cache, whose copies would be checked instead.
        tensors: Whether tensors are read and their digests computed; otherwise they must only exist.
        trusted: Who has to vouch for every version; None asks nobody.
        advance: Called with the number of checks that are done, and of all.

    Raises:
        Unreachable: The store cannot be listed, or many of its files cannot be read.
    """
    listed = listing(store.place)
    checks = list(_checks(store, listed, tensors, trusted))
    problems: list[Problem] = []
    with ThreadPoolExecutor(READERS) as readers:
        results = readers.map(_problem_of, checks)
        try:
            for done, problem in enumerate(results, start=1):
                if problem is not None:
                    problems.append(problem)
                advance(done, len(checks))
        except BaseException:
            readers.shutdown(cancel_futures=True)
            raise
    unreadable = [problem for problem in problems if isinstance(problem, _Unreadable)]
    if len(unreadable) >= _UNREACHABLE:
        raise Unreachable(unreadable[0].problem, field=unreadable[0].place, remedy=unreadable[0].remedy)
    return Report(
        checked=dict(Counter(_kind(key) for key in dict.fromkeys(key for key, _ in checks))),
        size=sum(stamp.size for stamp in listed.values()),
        problems=sorted(problems, key=lambda problem: problem.place),
        leftovers=leftovers(store, listed),
    )


class _Unreadable(Problem):
    """The place did not hand out the file."""


def _problem_of(check: tuple[str, _Check]) -> Problem | None:
    """What a check finds twice: a first finding may be a change that is being made."""
    place, run = check
    for _ in range(2):
        try:
            run()
        except CorollaError as error:
            found = error
        else:
            return None
    kind = _Unreadable if isinstance(found, Unreachable) else Problem
    where = found.field if found.field is not None and "/" in found.field else place
    return kind(place=where, problem=found.problem, remedy=found.remedy or _RESTORE)


def _kind(key: str) -> str:
    return keys.SIGNATURES if f"/{keys.SIGNATURES}/" in key else key.partition("/")[0]


def _checks(
    store: Store, listed: Listing, tensors: bool, trusted: Trusted | None
) -> Iterator[tuple[str, _Check]]:
    """Every check, with the key that it is about."""
    for digest in keys.backbones_in(listed):
        yield keys.backbone(digest, "backbone.json"), partial(_backbone, store, digest, tensors)
    for task, digest in keys.tasks_in(listed):
        yield keys.task(task, digest, "task.json"), partial(_task, store, task, digest, tensors)
    deleted = set(keys.versions_in(listed, r"deleted\.json"))
    for version in keys.versions_in(listed, r"manifest\.json"):
        if version not in deleted:
            manifest = keys.adapter(*version, "manifest.json")
            yield manifest, partial(_adapter, store, *version, tensors)
            if trusted is not None:
                yield manifest, partial(_voucher, store, *version, trusted)
    for signature in keys.signatures_in(listed):
        yield signature, partial(store.adapters.signatures.check_file, signature)
    for alias in keys.all_aliases_in(listed):
        yield keys.alias(*alias), partial(_alias, store, *alias)
    for route in keys.routes_in(listed):
        yield keys.route(*route), partial(_route, store, *route)
    for digest in keys.images_in(listed):
        yield keys.images(digest), partial(store.images.of, {"data_digest": digest})
    for reference in keys.references_in(listed):
        yield keys.reference(*reference), partial(store.references.get, *reference)
    for key in keys.history_in(listed):
        yield key, partial(_audit, store, key)


def _backbone(store: Store, digest: str, tensors: bool) -> None:
    record = store.backbones.with_digest(digest)
    if tensors:
        store.backbones.load(record)
    else:
        _expect(store, keys.backbone(digest, "backbone.safetensors"), "import the backbone again")


def _task(store: Store, name: str, digest: str, tensors: bool) -> None:
    try:
        record = store.tasks.with_digest(name, digest)
    except NotFound:
        return  # deleted meanwhile
    place = keys.task(name, digest, "task.json")
    _expect_lists(store, record)
    try:
        store.backbones.with_digest(record.spec.backbone_digest)
    except NotFound as error:
        raise Corrupt(
            f"its backbone {record.spec.backbone_digest[:12]} is not in the store",
            field=place,
            remedy="import that backbone, or delete the task with `corolla tasks delete`",
        ) from error
    if tensors:
        store.tasks.load_base_head(record)
    else:
        _expect(store, keys.task(name, digest, "base_head.safetensors"), "delete the task")


def _adapter(store: Store, task: str, name: str, version: int, tensors: bool) -> None:
    try:
        manifest = store.adapters.manifest(task, name, version)
    except NotFound:
        return  # deleted meanwhile
    place = keys.adapter(task, name, version, "manifest.json")
    _expect_lists(store, manifest)
    try:
        record = store.tasks.of(manifest)
    except NotFound as error:
        raise Corrupt(
            f"its task {task!r} with digest {manifest.task_digest[:12]} is not in the store",
            field=place,
            remedy="restore the task, or delete the adapter with `corolla adapters delete`",
        ) from error
    if record.spec.backbone_digest != manifest.backbone_digest:
        raise Corrupt("it and its task have different backbones", field=place, remedy="train it again")
    if tensors:
        store.adapters.load(manifest)
    else:
        _expect(store, keys.adapter(task, name, version, "adapter.safetensors"), "publish it again")


def _voucher(store: Store, task: str, name: str, version: int, trusted: Trusted) -> None:
    with suppress(NotFound):  # deleted meanwhile
        store.adapters.signatures.voucher(store.adapters.manifest(task, name, version), trusted)


def _expect_lists(store: Store, record: Manifest | TaskRecord) -> None:
    for digest in digests_in(record.training):
        _expect(store, keys.images(digest), "train on these images again, which writes it")


def _expect(store: Store, key: str, remedy: str) -> None:
    if not store.place.exists(key):
        raise Corrupt("the file is missing", field=key, remedy=f"restore it from a backup, or {remedy}")


def _alias(store: Store, task: str, name: str, alias: str) -> None:
    version = store.adapters.version_of(task, name, alias)
    if version is None:
        return  # dropped meanwhile
    place, buried = keys.alias(task, name, alias), keys.adapter(task, name, version, "deleted.json")
    if store.place.exists(keys.adapter(task, name, version, "manifest.json")):
        return
    if alias == LATEST and store.place.exists(buried):
        return  # a deletion that was cut off, or is under way: a leftover
    gone = "was deleted" if store.place.exists(buried) else "does not exist"
    raise Corrupt(
        f"it stands for version {version}, which {gone}",
        field=place,
        remedy=f"move it with `corolla adapters alias {task}/{name} {alias} VERSION`",
    )


def _route(store: Store, task: str, name: str) -> None:
    place = keys.route(task, name)
    try:
        route = store.routes.get(task, name)
    except NotFound:
        return  # deleted meanwhile
    remedy = "put it again with `corolla routes put`, or delete it with `corolla routes delete`"
    try:
        for ref in route.parsed().adapters:
            _resolve(store, ref, task)
        for pinned in _pinned(route):
            _check_digest(store, pinned, place)
    except (NotFound, InvalidInput) as error:
        raise Corrupt(f"{error.problem} ({route.route})", field=place, remedy=remedy) from error


def _resolve(store: Store, ref: AdapterRef, task: str) -> None:
    if not ref.is_base:
        store.adapters.resolve(ref, task)
    elif not store.tasks.list(ref.task or task):
        raise store.tasks.missing(ref.task or task)


def _pinned(route: NamedRoute) -> Iterator[ExactVersion]:
    """The versions of terms whose text names one, and what these computed when the route was put."""
    named = {
        f"{ref.task or route.task}/{ref.name}:{ref.version}"
        for ref in route.parsed().adapters
        if ref.version is not None
    }
    yield from (exact for exact in route.versions if exact.adapter in named)


def _check_digest(store: Store, pinned: ExactVersion, place: str) -> None:
    ref = parse_adapter(pinned.adapter)
    manifest = store.adapters.resolve(ref, ref.task or "")
    if manifest.digest != pinned.digest:
        raise Corrupt(
            f"it was put when {pinned.adapter} had digest {pinned.digest[:12]}, which is now "
            f"{manifest.digest[:12]}",
            field=place,
            remedy="put it again with `corolla routes put`",
        )


def _audit(store: Store, key: str) -> None:
    data = store.place.read(key)
    if data is not None:
        Audit.parse(data, key)
