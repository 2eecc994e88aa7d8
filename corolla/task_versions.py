"""The versions of a task by what people say of them: its name, a backbone and a number."""

from collections.abc import Sequence

from model_store.format.records import TaskRecord
from model_store.store import Store
from petl_vit.errors import NotFound


def records_of(store: Store, task: str, backbone: str | None, version: int | None) -> Sequence[TaskRecord]:
    """The versions of a task on one backbone, or the one that is asked for.

    Raises:
        NotFound: There is no such task or version.
        InvalidInput: The task is on several backbones, and none is named.
    """
    digest = None if backbone is None else store.backbones.get(backbone).digest
    newest = store.tasks.get(task, digest)
    records = store.tasks.versions(task, newest.spec.backbone_digest)
    chosen = [record for record in records if version in (None, record.version)]
    if not chosen:
        known = ", ".join(str(record.version) for record in records)
        raise NotFound(f"task {task!r} has no version {version}", field="version", remedy=f"there is {known}")
    return chosen


def fitted_to(record: TaskRecord) -> str:
    """What a base head was fitted to, in a few words."""
    if record.training.get("zero_shot"):
        return "zero-shot"
    images = record.training.get("images")
    return "" if images is None else f"{images} images"
