"""Records of a store: manifests, tasks, routes, references, aliases. The first byte chooses the kind."""

from datetime import UTC, datetime

from model_store.format.records import (
    Alias,
    Archived,
    Audit,
    BackboneRecord,
    Draft,
    Manifest,
    NamedRoute,
    StoredRecord,
    TaskRecord,
    TaskSpec,
    Tombstone,
)
from model_store.format.reference import Reference
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import Corrupt, Unsupported
from petl_vit.image_input import Preprocess

KINDS: tuple[type[StoredRecord], ...] = (
    Manifest,
    TaskRecord,
    NamedRoute,
    Archived,
    BackboneRecord,
    Alias,
    Tombstone,
    Audit,
    Reference,
)
_HALF = (0.5, 0.5, 0.5)
_DIGEST = "0" * 64
_THEN = datetime(2026, 1, 1, tzinfo=UTC)


def seeds() -> list[bytes]:
    spec = TaskSpec.of(
        name="digits",
        classes=("a", "b"),
        preprocess=Preprocess(image_size=32, mean=_HALF, std=_HALF),
        backbone_digest=_DIGEST,
    )
    draft = Draft.of(
        task="digits",
        name="lora",
        method="lora",
        config={"rank": 4},
        backbone_digest=_DIGEST,
        task_digest=_DIGEST,
        metrics={"accuracy": 0.5},
    )
    config = BackboneConfig(architecture="vit_tiny_patch16_224", image_size=32, mean=_HALF, std=_HALF)
    records = (
        Manifest.published(draft, version=1, digest=_DIGEST, created_at=_THEN),
        TaskRecord(digest=_DIGEST, spec=spec, created_at=_THEN),
        NamedRoute(task="digits", name="best", route="lora, ssf"),
        Archived(adapter=draft, adapter_digest=_DIGEST, task=spec, backbone=config),
        BackboneRecord(digest=_DIGEST, name="tiny", config=config, source="x", created_at=_THEN),
        Alias(version=1),
        Tombstone(digest=_DIGEST, deleted_at=_THEN),
        Audit(name="digits/best", before="", after="lora", at=_THEN, by="me"),
    )
    return [bytes([KINDS.index(type(record))]) + record.encode() for record in records]


def check(data: bytes) -> None:
    if not data:
        return
    kind = KINDS[data[0] % len(KINDS)]
    try:
        record = kind.parse(data[1:], "key")
    except (Corrupt, Unsupported):
        return
    assert kind.parse(record.encode(), "key") == record
