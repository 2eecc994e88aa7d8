"""A whole checkpoint with a linear head, registered as an adapter of the method `full`.

The other way is `folding`. A file of ours names its classes in its header, and a hub's folder may name them
too, so the head's rows are matched by name; any other file has them in an order that it does not say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model_store.format.records import TaskRecord
from model_store.interchange.foreign import Foreign, Order, Registered, ordered_head, rows
from model_store.sources import checkpoint
from model_store.sources.checkpoint import Checkpoint
from model_store.store import Store
from petl_vit.architecture import describe
from petl_vit.errors import Corrupt, InvalidInput
from petl_vit.methods.full import Full

_HEAD = ("head.weight", "head.bias")


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A checkpoint on its way into the store."""

    checkpoint: Checkpoint

    @property
    def said(self) -> str:
        """What it is, for the user."""
        of = self.checkpoint.said.architecture
        return f"a whole checkpoint{f' of {of}' if of else ''}, {len(self.checkpoint.tensors)} tensors"

    def register(
        self,
        store: Store,
        task: TaskRecord,
        *,
        name: str,
        classes: Sequence[str] | None,
        order: Order | None = None,
    ) -> Registered:
        """Register it under a task; and what the user should know.

        Raises:
            InvalidInput: It has no linear head, other classes than the task, or rows of an unknown order.
            Corrupt: Its tensors are not those of the task's backbone at the task's image size.
        """
        found = self.checkpoint
        missing = [tensor for tensor in _HEAD if tensor not in found.tensors]
        if missing:
            raise InvalidInput(
                f"it has no {missing[0]}{_nearly(found)}",
                field=found.name,
                remedy="give a whole classifier; a backbone alone goes to `corolla backbones import`",
            )
        named, notes = rows(
            task, classes, order, said=found.said.classes, what=found.name, sorts_naturally=True
        )
        head = ordered_head({n: found.tensors[n] for n in _HEAD}, task, named)
        foreign = Foreign(
            method=Full(),
            tensors=found.tensors | head,
            source={"imported_from": "timm", "file": found.name, "header": dict(found.header)},
        )
        notes += _about_eps(found, describe(store.backbones.get(task.spec.backbone_digest).config).eps)
        try:
            return Registered(foreign.register(store, task, name=name), [*found.notes, *notes])
        except Corrupt as error:
            done = f" ({'; '.join(found.notes)})" if found.notes else ""
            raise Corrupt(f"{error.problem}{done}", field=found.name, remedy=error.remedy) from error


def read(path: Path, *, prefix: str | None = None, ema: bool | None = None) -> Whole:
    """Read a checkpoint file, or a folder of a hub; `checkpoint.read` has the arguments.

    Raises:
        NotFound: It does not exist.
        InvalidInput: It holds no tensors, several ViTs, or what cannot be read without running code.
        Corrupt: It is not whole, or not finite.
    """
    return Whole(checkpoint=checkpoint.read(path, prefix=prefix, ema=ema, field="path"))


def _about_eps(found: Checkpoint, eps: float) -> list[str]:
    """What to say where the LayerNorms of a classifier have another epsilon than the task's backbone."""
    if found.said.eps in (None, eps):
        return []
    return [
        f"its LayerNorms have an epsilon of {found.said.eps:g} and the task's backbone {eps:g}, which is "
        "computed here: its logits differ a little; a backbone that was imported from it would have its own"
    ]


def _nearly(found: Checkpoint) -> str:
    """What a file without a linear head has instead."""
    heads = sorted(name for name in found.tensors if name.split(".")[0] in ("head", "fc", "classifier"))
    return f", but {', '.join(heads[:4])}" if heads else ""
