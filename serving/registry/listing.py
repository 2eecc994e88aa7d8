"""A listing: the adapters that a backbone can run, and which of them are in memory."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from model_store.names import AdapterId
from model_store.resolution.versions import ResolvedTerm
from model_store.routes.text import parse_adapter
from model_store.store import Store
from petl_vit.errors import CorollaError, Corrupt, NotFound
from serving.registry.resident import Resident

READERS = 16
"""Files that are read at the same time for a listing; most have been read before."""


@dataclass(frozen=True, kw_only=True)
class AdapterState:
    """One version of an adapter, or the base of a task.

    Attributes:
        name: `task/name:version` or `task/base`.
        aliases: Those that point at it.
        stored: Whether the store has it.
        resident: What it takes, where it is in memory.
        problem: Why its record cannot be used; then nothing is known but its name.
    """

    name: str
    digest: str = ""
    method: str = ""
    aliases: tuple[str, ...] = ()
    stored: bool = True
    resident: Resident | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What adapters take of a budget; bytes."""

    adapters: int
    size: int
    budget: int


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Adapters, and what all that are in memory take."""

    adapters: list[AdapterState]
    registered: Memory
    slots: Memory


def listed(
    store: Store, backbone_digest: str, task: str, residents: Sequence[Resident], *, resident_only: bool
) -> list[AdapterState]:
    """The adapters of one task or, where it is empty, of all.

    What is in memory comes first, in the order of `residents`, whether the store still has it or not.
    """
    states = {
        (name, resident.digest): AdapterState(
            name=name, digest=resident.digest, method=resident.method, stored=False, resident=resident
        )
        for resident in residents
        for name in resident.names
        if not task or name.startswith(f"{task}/")
    }
    versions = _versions_in(name for name, _ in states)
    if not resident_only:
        versions |= store.adapters.published(task or None)
    by_digest = {resident.digest: resident for resident in residents}
    reader = _Reader(store, backbone_digest, by_digest)
    for state in [*reader.adapters(versions), *reader.bases(task)]:
        if not resident_only or state.resident is not None:
            states[state.name, state.digest] = state
    return list(states.values())


def state_of(store: Store, name: str, digest: str, method: str, resident: Resident | None) -> AdapterState:
    """One adapter by its full name, with its aliases."""
    ref = parse_adapter(name)
    aliases: tuple[str, ...] = ()
    if ref.version is not None:
        aliases = _pointing(aliases_of(store, AdapterId(str(ref.task), ref.name)), ref.version)
    return AdapterState(name=name, digest=digest, method=method, aliases=aliases, resident=resident)


def aliases_of(store: Store, adapter: AdapterId) -> dict[str, int]:
    """The aliases of an adapter; none where one is damaged, as whoever asks for that one is told."""
    with suppress(Corrupt):
        return store.adapters.aliases(adapter.task, adapter.name)
    return {}


class _Reader:
    """Reads what the store says of adapters of one backbone."""

    def __init__(self, store: Store, backbone_digest: str, residents: dict[str, Resident]) -> None:
        self._store, self._backbone_digest, self._residents = store, backbone_digest, residents

    def bases(self, task: str) -> list[AdapterState]:
        """The base of one task or of all."""
        terms = [
            ResolvedTerm(alpha=1.0, manifest=None, task=record)
            for record in self._store.tasks.list()
            if record.spec.backbone_digest == self._backbone_digest and (not task or record.spec.name == task)
        ]
        return [
            state_of(self._store, term.full_name, term.digest, term.method, self._residents.get(term.digest))
            for term in terms
        ]

    def adapters(self, versions: dict[AdapterId, list[int]]) -> list[AdapterState]:
        """So many versions of adapters, by name."""
        with ThreadPoolExecutor(READERS) as readers:
            return [
                state
                for states in readers.map(lambda item: self._versions(*item), sorted(versions.items()))
                for state in states
            ]

    def _versions(self, adapter: AdapterId, versions: list[int]) -> list[AdapterState]:
        aliases = aliases_of(self._store, adapter)
        states = (self._version(adapter, version, aliases) for version in versions)
        return [state for state in states if state is not None]

    def _version(self, adapter: AdapterId, version: int, aliases: dict[str, int]) -> AdapterState | None:
        """One version; None where it is gone, or another backbone's."""
        try:
            manifest = self._store.adapters.manifest(adapter.task, adapter.name, version)
        except NotFound:
            return None
        except CorollaError as error:
            return AdapterState(name=f"{adapter}:{version}", problem=str(error))
        if manifest.backbone_digest != self._backbone_digest:
            return None
        return AdapterState(
            name=str(manifest),
            digest=manifest.digest,
            method=manifest.method,
            aliases=_pointing(aliases, version),
            resident=self._residents.get(manifest.digest),
        )


def _versions_in(names: Iterable[str]) -> dict[AdapterId, list[int]]:
    """The adapters and versions of full names; bases have none."""
    versions: dict[AdapterId, list[int]] = {}
    for name in names:
        ref = parse_adapter(name)
        if ref.version is not None:
            versions.setdefault(AdapterId(str(ref.task), ref.name), []).append(ref.version)
    return versions


def _pointing(aliases: dict[str, int], version: int) -> tuple[str, ...]:
    return tuple(sorted(alias for alias, target in aliases.items() if target == version))
