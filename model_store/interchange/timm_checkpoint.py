"""A whole timm checkpoint with a linear head, registered as an adapter of the method `full`.

The other way is `folding`. A file of ours names its classes in its header, so its head's rows are matched by
name; any other file has them in the task's order unless the user says otherwise.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from model_store.collections.adapters import Published
from model_store.format import tensors
from model_store.format.records import TaskRecord
from model_store.interchange import folding
from model_store.interchange.foreign import Foreign, ordered_head
from model_store.store import Store
from petl_vit.errors import InvalidInput
from petl_vit.methods.full import Full

_HEAD = ("head.weight", "head.bias")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Tensors under timm's names, and the header of the file."""

    name: str
    tensors: dict[str, Tensor]
    header: dict[str, str]

    def register(
        self, store: Store, task: TaskRecord, *, name: str, classes: Sequence[str] | None
    ) -> tuple[Published, list[str]]:
        """Register it under a task; and what the user should know.

        Raises:
            InvalidInput: It has no linear head, or other classes than the task.
            Corrupt: Its tensors are not those of the task's backbone at the task's image size.
        """
        missing = [tensor for tensor in _HEAD if tensor not in self.tensors]
        if missing:
            raise InvalidInput(
                f"it has no {missing[0]}",
                field=self.name,
                remedy="give a whole classifier; a backbone alone goes to `corolla backbones import`",
            )
        named = _classes(self.header)
        head = ordered_head({n: self.tensors[n] for n in _HEAD}, task, classes or named)
        notes = [] if classes or named else ["its head's rows were taken in the order of the task's classes"]
        foreign = Foreign(
            method=Full(),
            tensors={n: t.float() for n, t in (self.tensors | head).items()},
            source={"imported_from": "timm", "file": self.name, "header": dict(self.header)},
        )
        return foreign.register(store, task, name=name), notes


def read(data: bytes, name: str) -> Checkpoint:
    """Read a safetensors checkpoint.

    Raises:
        Corrupt: It is not whole, or not finite.
    """
    state = tensors.decode(data, key=name, remedy="save the state dict with safetensors")
    return Checkpoint(name=name, tensors=state, header=_header(data))


def _header(data: bytes) -> dict[str, str]:
    """The file's own words; the file was read before, so it is whole."""
    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__")
    return {str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {}


def _classes(header: dict[str, str]) -> tuple[str, ...] | None:
    if folding.NAME not in header:
        return None
    try:
        classes = json.loads(header.get("classes", "null"))
    except ValueError:
        return None
    return tuple(map(str, classes)) if isinstance(classes, list) else None
