"""An archive: one adapter with its task and base head as one file, to move between stores.

A zip without compression, byte for byte the same for the same adapter: fixed order, fixed times, and no
version, since that is the receiving store's to give. The backbone does not travel; its digest does. What is
read is held to every digest before it is stored, and nothing is ever extracted to a path from the file.
docs/store-format.md has the format.
"""

import io
import zipfile
from dataclasses import dataclass

from torch import Tensor

from model_store.collections.adapters import Published
from model_store.format import digest, tensors
from model_store.format.records import Archived, Draft, Manifest, TaskRecord, TaskSpec
from model_store.format.zips import UNREADABLE
from model_store.store import Store
from petl_vit import heads, methods
from petl_vit.architecture import check_tensors, describe
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import CorollaError, Corrupt, InvalidInput, NotFound

RECORD, ADAPTER, BASE_HEAD = "corolla.json", "adapter.safetensors", "base_head.safetensors"
_ORDER = (RECORD, ADAPTER, BASE_HEAD)
_EPOCH = (1980, 1, 1, 0, 0, 0)
_RECORD_BYTES = 64 * 2**20
_REMEDY = "export the adapter again"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What an archive holds, after it matched its digests."""

    record: Archived
    adapter: dict[str, Tensor]
    base_head: dict[str, Tensor]


def write(store: Store, manifest: Manifest) -> bytes:
    """The archive of one version.

    Raises:
        Corrupt: A stored file is not what its digest says.
    """
    task = store.tasks.of(manifest)
    record = Archived.of(
        adapter=Draft.of(**{name: getattr(manifest, name) for name in Draft.model_fields}),
        adapter_digest=manifest.digest,
        task=task.spec,
        backbone=store.backbones.get(manifest.backbone_digest).config,
    )
    parts = {
        RECORD: record.encode(),
        ADAPTER: tensors.encode(store.adapters.load(manifest)),
        BASE_HEAD: tensors.encode(store.tasks.load_base_head(task)),
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in _ORDER:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16  # the same on every system
            archive.writestr(info, parts[name])
    return file.getvalue()


def read(data: bytes, *, name: str = "archive") -> Archive:
    """Read an archive and hold it to its digests.

    Args:
        data: The whole file.
        name: What to call it in errors.

    Raises:
        Corrupt: It is not such a zip, holds anything else, or does not match its digests.
        Unsupported: A newer version of the format.
    """
    parts = _parts(data, name)
    record = Archived.parse(parts[RECORD], f"{name}: {RECORD}")
    adapter = tensors.decode(parts[ADAPTER], key=f"{name}: {ADAPTER}", remedy=_REMEDY)
    base_head = tensors.decode(parts[BASE_HEAD], key=f"{name}: {BASE_HEAD}", remedy=_REMEDY)
    archive = Archive(record=record, adapter=adapter, base_head=base_head)
    _check_digests(archive, name)
    return archive


def register(
    store: Store, archive: Archive, *, task: str | None = None, name: str | None = None
) -> Published:
    """Register an archive's adapter, and its task where the store has none of that name.

    The same again returns the version that exists.

    Args:
        task, name: Names to register under; None means those in the archive.

    Raises:
        NotFound: The backbone is not in the store; names its digest and what it is.
        Conflict: The task's name is taken by other classes, another input or another base head.
        Corrupt: The tensors are not those that the method has on this backbone.
    """
    draft, spec = archive.record.adapter, archive.record.task
    draft = Draft.of(**(dict(draft) | {"task": task or spec.name, "name": name or draft.name}))
    _check_backbone(store, archive.record)
    _check_shapes(archive, archive.record.backbone)
    record: TaskRecord = store.tasks.put(
        TaskSpec.of(**(dict(spec) | {"name": draft.task})), archive.base_head
    )
    assert record.digest == draft.task_digest  # checked when it was read
    return store.adapters.publish_once(draft, archive.adapter)


def _parts(data: bytes, name: str) -> dict[str, bytes]:
    """The members by name, if they are exactly the three, stored as they are."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if sorted(info.filename for info in infos) != sorted(_ORDER):
                shown = ", ".join(repr(info.filename[:80]) for info in infos[:5]) or "nothing"
                raise Corrupt(
                    f"it holds {shown} and not {', '.join(_ORDER)}",
                    field=name,
                    remedy="give a file of `corolla adapters export`",
                )
            _check_sizes(infos, len(data), name)
            return {info.filename: archive.read(info) for info in infos}
    except CorollaError:
        raise
    except UNREADABLE as error:
        raise Corrupt(f"not a whole archive ({error})", field=name, remedy=_REMEDY) from error


def _check_sizes(infos: list[zipfile.ZipInfo], size: int, name: str) -> None:
    """Nothing is compressed and nothing overlaps, so reading needs no more memory than the file."""
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise Corrupt(f"{info.filename} is compressed", field=name, remedy="zip it without compression")
        if info.filename == RECORD and info.file_size > _RECORD_BYTES:
            raise Corrupt(f"{RECORD} has {info.file_size:,} bytes", field=name, remedy=_REMEDY)
    if sum(info.file_size for info in infos) > size:
        raise Corrupt("its parts overlap", field=name, remedy=_REMEDY)


def _check_digests(archive: Archive, name: str) -> None:
    draft, spec = archive.record.adapter, archive.record.task
    task = digest.task_digest(spec.classes, spec.preprocess, spec.backbone_digest, archive.base_head)
    adapter = digest.adapter_digest(
        method=draft.method,
        config=draft.config,
        backbone=draft.backbone_digest,
        task=draft.task_digest,
        tensors=archive.adapter,
    )
    for what, actual, expected in (
        ("backbone", draft.backbone_digest, spec.backbone_digest),
        ("task", task, draft.task_digest),
        ("adapter", adapter, archive.record.adapter_digest),
    ):
        if actual != expected:
            raise Corrupt(
                f"the {what}'s digest is {actual[:12]} instead of {expected[:12]}", field=name, remedy=_REMEDY
            )


def _check_backbone(store: Store, record: Archived) -> None:
    backbone = record.task.backbone_digest
    try:
        store.backbones.get(backbone)
    except NotFound:
        config = record.backbone
        raise NotFound(
            f"the adapter belongs to backbone {backbone}, which is not in this store "
            f"({config.architecture}, {config.image_size} px)",
            field="backbone",
            remedy="import the same weights first with `corolla backbones import`",
        ) from None


def _check_shapes(archive: Archive, config: BackboneConfig) -> None:
    """The tensors are exactly those of the method, so what is registered can also be loaded."""
    draft, spec = archive.record.adapter, archive.record.task
    arch = describe(config).at(spec.preprocess.image_size)
    try:
        method = methods.get(draft.method).configure(draft.config)
    except (InvalidInput, NotFound) as error:
        raise Corrupt(
            f"the adapter's method: {error.problem}",
            field=error.field,
            remedy="use the corolla that exported it",
        ) from error
    base = heads.load(archive.base_head, classes=len(spec.classes), width=arch.features)
    heads.load_like(base, archive.adapter)
    edits = {name: t for name, t in archive.adapter.items() if not name.startswith("head.")}
    check_tensors(edits, method.shapes(arch), what=f"{draft.method} adapter {draft.name}")
