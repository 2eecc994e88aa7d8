"""The tasks of a store: classes, preprocessing and a base head, for each backbone.

A task whose base head is fitted again has a record for each version. The newest is what its name means;
adapters belong, by digest, to the version that they were trained for.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from pydantic import JsonValue

from model_store.collections import missing
from model_store.collections.backbones import Backbones
from model_store.collections.condemned import keep
from model_store.collections.tensor_files import read, write
from model_store.format import digest, keys, tensors
from model_store.format.records import Draft, Manifest, TaskRecord, TaskSpec
from model_store.names import check_name
from model_store.place.objects import Place
from petl_vit.errors import Conflict, Corrupt, InvalidInput, NotFound

if TYPE_CHECKING:
    from torch import Tensor

_RECORD, _BASE_HEAD = "task.json", "base_head.safetensors"
_REMEDY = "remove this folder and train the task's base head again"


class Tasks:
    """The tasks in a place, on the backbones in it."""

    def __init__(self, place: Place, backbones: Backbones) -> None:
        self._place = place
        self._backbones = backbones

    def put(
        self,
        spec: TaskSpec,
        base_head: "Mapping[str, Tensor]",
        training: Mapping[str, JsonValue] | None = None,
    ) -> TaskRecord:
        """Store a task and its base head once. The same again returns the record that exists.

        Args:
            training: What the base head was fitted to; None where that is not known.

        Raises:
            Conflict: The name is taken on this backbone by a different task or head.
            NotFound: The backbone is not in the store.
        """
        self._backbones.with_digest(spec.backbone_digest)
        with self._place.exclusive():
            others = self.versions(spec.name, spec.backbone_digest)
            identity = _identity(spec, base_head)
            for other in others:
                if other.digest == identity:
                    return self._restore(other, base_head)
            if others:
                raise _taken(others[-1], spec)
            return self._create(spec, base_head, training or {}, version=1)

    def refit(
        self, task: TaskRecord, base_head: "Mapping[str, Tensor]", training: Mapping[str, JsonValue]
    ) -> TaskRecord:
        """Store another base head of a task as its next version, which its name means from now on.

        Raises:
            Conflict: A version has this base head already.
        """
        with self._place.exclusive():
            others = self.versions(task.spec.name, task.spec.backbone_digest)
            identity = _identity(task.spec, base_head)
            for other in others:
                if other.digest == identity:
                    raise Conflict(
                        f"version {other.version} of task {task.spec.name!r} has this base head already",
                        field="task",
                        remedy="fit it to other images"
                        if other is others[-1]
                        else "delete the newer versions with `corolla tasks delete` to return to it",
                    )
            return self._create(task.spec, base_head, training, version=others[-1].version + 1)

    def _create(
        self,
        spec: TaskSpec,
        base_head: "Mapping[str, Tensor]",
        training: Mapping[str, JsonValue],
        *,
        version: int,
    ) -> TaskRecord:
        record = TaskRecord(
            digest=_identity(spec, base_head),
            spec=spec,
            version=version,
            training=dict(training),
            created_at=datetime.now(UTC),
        )
        key, data = keys.task(spec.name, record.digest, _BASE_HEAD), tensors.encode(base_head)
        write(self._place, key, data)
        self._place.create(keys.task(spec.name, record.digest, _RECORD), record.encode())
        keep(self._place, key, data)
        return record

    def _restore(self, record: TaskRecord, base_head: "Mapping[str, Tensor]") -> TaskRecord:
        """Write the base head of a record again where it is missing or damaged."""
        key, data = keys.task(record.spec.name, record.digest, _BASE_HEAD), tensors.encode(base_head)
        write(self._place, key, data)
        keep(self._place, key, data)
        return record

    def remove(self, record: TaskRecord) -> None:
        """Remove one version. See `model_store.deletion` for who may."""
        # The record first: without it the version does not exist.
        for file in (_RECORD, _BASE_HEAD):
            self._place.delete(keys.task(record.spec.name, record.digest, file))

    def get(self, name: str, backbone_digest: str | None = None) -> TaskRecord:
        """Find the newest version of a task on one backbone; by None on the only one that it is on.

        Raises:
            NotFound: No such task, or not on this backbone.
            InvalidInput: No backbone is given, and it is on several.
            Conflict: Two were stored at the same moment.
        """
        records = self.list(check_name(name, "task"))
        if not records:
            raise self.missing(name)
        if backbone_digest is None:
            return _only(name, records)
        matches = [record for record in records if record.spec.backbone_digest == backbone_digest]
        if len(matches) > 1:
            digests = " and ".join(record.digest for record in matches)
            raise Conflict(
                f"task {name!r} has different records on one backbone: {digests}",
                field="task",
                remedy=f"remove the folder of one below tasks/{name}",
            )
        if not matches:
            others = ", ".join(sorted(record.spec.backbone_digest[:12] for record in records))
            raise NotFound(
                f"task {name!r} is not on backbone {backbone_digest[:12]}",
                field="task",
                remedy=f"it is on {others}; train an adapter for it on this backbone",
            )
        return matches[0]

    def check(self, draft: Draft) -> None:
        """Check that an adapter's task is stored, and on the adapter's backbone.

        Raises:
            NotFound, Corrupt: As `with_digest`.
            InvalidInput: It is on another backbone.
        """
        task = self.with_digest(draft.task, draft.task_digest)
        if task.spec.backbone_digest != draft.backbone_digest:
            raise InvalidInput(
                "the adapter and its task have different backbones",
                field="backbone_digest",
                remedy=f"use {task.spec.backbone_digest}",
            )

    def with_digest(self, name: str, identity: str) -> TaskRecord:
        """Read the record of a name and a whole digest.

        Raises:
            NotFound: There is none.
        """
        key = keys.task(name, identity, _RECORD)
        data = self._place.read(key)
        if data is None:
            raise NotFound(
                f"task {name!r} has no record with digest {identity[:12]}",
                field="task",
                remedy="train the task's base head",
            )
        record = TaskRecord.parse(data, key)
        digest.check(record.digest, identity, key=key, remedy=_REMEDY)
        if record.spec.name != name:
            raise Corrupt(f"the record is of task {record.spec.name!r}", field=key, remedy="move it back")
        return record

    def of(self, manifest: Manifest) -> TaskRecord:
        """The task that an adapter was made for.

        Raises:
            NotFound: It is not in the store.
        """
        return self.with_digest(manifest.task, manifest.task_digest)

    def find(self, name: str, digest_prefix: str) -> TaskRecord | None:
        """The version of that task whose digest begins so, if it is there; other tasks are not read."""
        matches = (record for record in self.versions(name) if record.digest.startswith(digest_prefix))
        return next(matches, None)

    def load_base_head(self, record: TaskRecord) -> "dict[str, Tensor]":
        """Read the head at alpha = 0, on the CPU.

        Raises:
            Corrupt: The file is missing or damaged, or is not what the digest says.
        """
        return self._read(record)[1]

    def base_head_file(self, record: TaskRecord) -> bytes:
        """The file of a base head, checked as `load_base_head` does."""
        return self._read(record)[0]

    def _read(self, record: TaskRecord) -> "tuple[bytes, dict[str, Tensor]]":
        spec = record.spec
        key = keys.task(spec.name, record.digest, _BASE_HEAD)
        digest_of = partial(_identity, spec)
        return read(self._place, key, identity=record.digest, digest_of=digest_of, remedy=_REMEDY)

    def missing(self, name: str) -> NotFound:
        """The error that says there is no task of that name."""
        return missing.task(name, {record.spec.name for record in self.list()})

    def versions(
        self,
        name: str | None = None,
        backbone_digest: str | None = None,
        damaged: "list[Corrupt] | None" = None,
    ) -> "list[TaskRecord]":
        """The versions of all tasks or of one, on all backbones or on one; each task's from the oldest.

        Args:
            damaged: Takes what is wrong with records that cannot be read, which are left out.

        Raises:
            Corrupt: A record cannot be read, and `damaged` is None.
        """
        records = []
        for task, identity in keys.tasks_in(self._place.keys(keys.below(keys.TASKS, name))):
            try:
                records.append(self.with_digest(task, identity))
            except Corrupt as error:
                if damaged is None:
                    raise
                damaged.append(error)
        return sorted(
            (r for r in records if backbone_digest in (None, r.spec.backbone_digest)),
            key=lambda record: (record.spec.name, record.version),
        )

    def list(self, name: str | None = None, damaged: "list[Corrupt] | None" = None) -> "list[TaskRecord]":
        """All tasks or those of a name, the newest version on each backbone, by name.

        Args:
            damaged: As in `versions`.
        """
        records = self.versions(name, damaged=damaged)
        newest = {(record.spec.name, record.spec.backbone_digest): record.version for record in records}
        return [r for r in records if newest[r.spec.name, r.spec.backbone_digest] == r.version]


def _identity(spec: TaskSpec, base_head: "Mapping[str, Tensor]") -> str:
    return digest.task_digest(spec.classes, spec.preprocess, spec.backbone_digest, base_head)


def _only(name: str, records: list[TaskRecord]) -> TaskRecord:
    if len(records) > 1:
        known = ", ".join(record.spec.backbone_digest[:12] for record in records)
        raise InvalidInput(
            f"task {name!r} is on {len(records)} backbones",
            field="backbone",
            remedy=f"add one of {known}",
        )
    return records[0]


def _taken(other: TaskRecord, spec: TaskSpec) -> Conflict:
    differs = [name for name, value in spec if getattr(other.spec, name) != value]
    what = " and ".join(differs) or "base head"
    return Conflict(
        f"task {spec.name!r} is already on this backbone with a different {what}",
        field="task",
        remedy="give this one another --task name",
    )
