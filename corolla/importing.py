"""An adapter from another store or library, registered: for the command line and for programs.

What reads tensors is imported once the names are known.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from corolla import files
from corolla.names import chosen_task
from model_store.format.records import Manifest, TaskRecord
from model_store.names import check_printable
from model_store.sources import class_file
from model_store.store import Store
from petl_vit.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from model_store.interchange import peft_types, petl_vision, timm_checkpoint
    from model_store.interchange.detection import Detected
    from model_store.interchange.foreign import Order
    from model_store.interchange.summary import EditCount

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """How to read an adapter, and what to register it as.

    Attributes:
        kind: A kind of `model_store.interchange.detection`, or "auto" for the one that the path holds.
        task, name: Names to register under; None is the only task, and an archive's own.
        backbone: The task's, where it is on several.
        classes: A file with the classes of the head's rows; order: or their order.
        head: "base" for the task's base head, or a file with one; None is the adapter's own.
        prefix, ema: Of a checkpoint; scale: of petl-vision.
    """

    path: Path
    kind: str = AUTO
    task: str | None = None
    name: str | None = None
    backbone: str | None = None
    classes: Path | None = None
    order: "Order | None" = None
    head: str | None = None
    prefix: str | None = None
    ema: bool | None = None
    scale: float | None = None


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of it.

    Attributes:
        known: Whether the same was registered before.
        kind: What was read.
        found: The same in words.
        edits: What it adds to the frozen forward.
        notes: What the user should know of how it was read.
        left_out: What of it is not in the store, and why.
    """

    manifest: Manifest
    known: bool
    kind: str
    found: str
    edits: "tuple[EditCount, ...]"
    notes: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def maps_to(self) -> str:
        """The method and its edits, in words."""
        edits = ", ".join(map(str, self.edits)) or "a head alone"
        return f"the method {self.manifest.method}: {edits}"


_USES = {
    "archive": (),
    "peft": ("classes", "order", "backbone", "head"),
    "timm": ("classes", "order", "backbone", "prefix", "ema"),
    "petl-vision": ("classes", "order", "backbone", "scale"),
}
"""What each kind has a use for."""
_SAYS_ITSELF = {"backbone": "its backbone", "classes": "its classes", "order": "its classes"}


def import_adapter(store: Store, arrival: Arrival) -> Imported:
    """Reads an adapter and registers it; the same again is the version that exists.

    Raises:
        NotFound: There is no such file or task.
        InvalidInput: Settings that do not fit what the path holds, or that it needs.
        Unsupported: It cannot be represented exactly; names what.
        Corrupt: It is damaged, or not of the task's backbone.
    """
    check_printable(str(arrival.path), "path")
    if not arrival.path.exists():
        raise NotFound(f"{arrival.path} does not exist", field="path", remedy="check the path")
    found = _detected(arrival)
    _check_settings(arrival, found.kind)
    return _archive(store, arrival, found) if found.kind == "archive" else _foreign(store, arrival, found)


def _detected(arrival: Arrival) -> "Detected":
    """What the path holds, if it can be of the kind that is asked for."""
    from model_store.interchange import detection

    if arrival.kind == AUTO:
        return detection.detect(arrival.path)
    for kind in detection.KINDS:
        if kind == arrival.kind:
            detection.check(arrival.path, kind)
            return detection.Detected(kind, arrival.path)
    raise InvalidInput(
        f"{arrival.kind!r} is not a format", field="kind", remedy=f"use {', '.join([*detection.KINDS, AUTO])}"
    )


def _check_settings(arrival: Arrival, kind: str) -> None:
    for setting in ("backbone", "classes", "order", "head", "prefix", "ema", "scale"):
        if getattr(arrival, setting) is not None and setting not in _USES[kind]:
            why = f"--format {kind} has no use for it"
            if kind == "archive" and setting in _SAYS_ITSELF:
                why = f"an archive says {_SAYS_ITSELF[setting]} itself"
            raise InvalidInput(why, field=setting, remedy="leave it out")


def _archive(store: Store, arrival: Arrival, found: "Detected") -> Imported:
    data = files.read(found.path)

    from model_store.interchange import archive, summary

    read = archive.read(data, name=found.path.name)
    published = archive.register(store, read, task=arrival.task, name=arrival.name)
    adapter = read.record.adapter
    return Imported(
        manifest=published.manifest,
        known=published.known,
        kind=found.kind,
        found=f"an archive of corolla with {adapter.task}/{adapter.name}",
        edits=summary.edits_of(store, published.manifest),
        notes=(),
        left_out=(),
    )


def _foreign(store: Store, arrival: Arrival, found: "Detected") -> Imported:
    if arrival.name is None:
        raise InvalidInput("the adapter needs a name", field="name", remedy="add --name")
    task = _task(store, arrival)
    classes = None if arrival.classes is None else class_file.read(arrival.classes)

    from model_store.interchange import peft_types, summary

    source = _source(arrival, found)
    if isinstance(source, peft_types.Peft):
        done = source.register(
            store, task, name=arrival.name, classes=classes, order=arrival.order, head=arrival.head
        )
    else:
        done = source.register(store, task, name=arrival.name, classes=classes, order=arrival.order)
    return Imported(
        manifest=done.published.manifest,
        known=done.published.known,
        kind=found.kind,
        found=source.said,
        edits=summary.edits_of(store, done.published.manifest),
        notes=tuple(done.notes),
        left_out=done.left_out,
    )


def _task(store: Store, arrival: Arrival) -> TaskRecord:
    name = chosen_task(store, arrival.task)
    if arrival.backbone is None:
        return store.tasks.get(name)
    return store.tasks.get(name, store.backbones.get(arrival.backbone).digest)


def _source(
    arrival: Arrival, found: "Detected"
) -> "peft_types.Peft | timm_checkpoint.Whole | petl_vision.FacT":
    """An adapter of another library, read."""
    from model_store.interchange import peft_types, petl_vision, timm_checkpoint

    if found.kind == "peft":
        return peft_types.read(found.path)
    if found.kind == "timm":
        return timm_checkpoint.read(found.path, prefix=arrival.prefix, ema=arrival.ema)
    return petl_vision.read(found.path, scale=arrival.scale)
