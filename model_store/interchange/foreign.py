"""Adapters of other libraries: what they need before they can be registered.

Such a file names neither a task nor the digest of its backbone. Both come from the task that it is registered
under, and its tensors must have that task's shapes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydantic import JsonValue
from torch import Tensor

from model_store.collections.adapters import Published
from model_store.format.records import Draft, TaskRecord
from model_store.names import class_name, differences
from model_store.store import Store
from petl_vit import heads
from petl_vit.architecture import check_tensors, describe
from petl_vit.errors import InvalidInput
from petl_vit.methods.method import Method

Order = Literal["task", "timm"]
"""The order of a head's rows: that of the task's classes, or the natural order that timm sorts folders in."""

ROWS = ("head.weight", "head.bias")
"""The tensors of a head that have a row for each class."""

_SHOWN = 3


class Registered(NamedTuple):
    """An adapter of another library in the store.

    Attributes:
        notes: What the user should know of how it was read.
        left_out: What of the file is not in the store, and why.
    """

    published: Published
    notes: list[str]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """An adapter in our terms, on its way into the store.

    Attributes:
        tensors: The method's and the head's, with the head's rows in the order of the task's classes.
        source: How it was made, for the manifest's `training`.
        notes: What the user should know of it.
    """

    method: Method
    tensors: dict[str, Tensor]
    source: dict[str, JsonValue]
    notes: tuple[str, ...] = ()

    def register(self, store: Store, task: TaskRecord, *, name: str) -> Published:
        """Publish it; the same again returns the version that exists.

        Raises:
            Corrupt: Its tensors are not those of the method and the task.
        """
        config = store.backbones.get(task.spec.backbone_digest).config
        arch = describe(config).at(task.spec.preprocess.image_size)
        edits = {n: t for n, t in self.tensors.items() if not n.startswith("head.")}
        check_tensors(edits, self.method.shapes(arch), what=f"imported {self.method.name} adapter")
        base = heads.load(
            store.tasks.load_base_head(task), classes=len(task.spec.classes), width=arch.features
        )
        heads.load_like(base, self.tensors)
        draft = Draft.of(
            task=task.spec.name,
            name=name,
            method=self.method.name,
            config=self.method.model_dump(mode="json"),
            backbone_digest=task.spec.backbone_digest,
            task_digest=task.digest,
            training=self.source,
        )
        return store.adapters.publish_once(draft, self.tensors)


def rows(
    task: TaskRecord,
    classes: Sequence[str] | None,
    order: Order | None,
    *,
    said: Sequence[str] | None = None,
    what: str = "",
    sorts_naturally: bool = False,
) -> tuple[Sequence[str], list[str]]:
    """The classes of a foreign head's rows, and what the user should know of them.

    Args:
        classes: As the user lists them; order: or says their order.
        said: As the file names them.
        what: The file, for the error.
        sorts_naturally: Whether such files come from timm, whose order may not be the task's.

    Raises:
        InvalidInput: The order is not known, and timm's is not the task's.
    """
    own, natural = task.spec.classes, sorted(task.spec.classes, key=_natural)
    if classes is not None and order is not None:
        raise InvalidInput("the classes are listed already", field="order", remedy="leave it out")
    if classes is not None or order is not None:
        return classes or (natural if order == "timm" else own), []
    if said is not None:
        return said, []
    taken = "its head's rows were taken in the order of the task's classes"
    if tuple(natural) == own:
        return own, [taken]
    place = next(i for i, name in enumerate(natural) if name != own[i])
    last = place + _SHOWN
    differ = (
        f"from class {place} on timm's natural order is {', '.join(natural[place:last])}, and that of task "
        f"{task.spec.name!r} is {', '.join(own[place:last])}"
    )
    if not sorts_naturally:
        return own, [f"{taken}; {differ}: --order timm takes the other"]
    raise InvalidInput(
        f"it does not name its classes, and {differ}",
        field=what,
        remedy="add --order timm where timm's train.py sorted the folders, --order task where the head has "
        "the task's order, or --classes FILE with one class a line",
    )


def _natural(name: str) -> list[int | str]:
    """timm's sort key of class folders: without case, numbers as numbers (timm.utils.misc.natural_key)."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]


def ordered_head(
    head: Mapping[str, Tensor], task: TaskRecord, classes: Sequence[str] | None
) -> dict[str, Tensor]:
    """A head with its rows in the order of the task's classes, matched by name.

    Args:
        head: `head.weight` [C, D] and `head.bias` [C], and CLIP's `head.projection`.
        classes: The classes of its rows; None means the task's order.

    Raises:
        InvalidInput: The classes are not the task's, or the head has another number of rows.
    """
    expected = tuple(map(class_name, task.spec.classes))
    names = expected if classes is None else tuple(map(class_name, classes))
    rows = len(head["head.weight"])
    if sorted(names) != sorted(expected):
        twice = ", ".join(sorted({name for name in names if names.count(name) > 1}))
        differ = differences(names, expected, whose="task") or twice
        raise InvalidInput(
            f"its classes are not those of task {task.spec.name!r}: they differ in {differ}",
            field="classes",
            remedy="import it under a task with its classes",
        )
    if rows != len(expected):
        raise InvalidInput(
            f"its head has {rows} rows, task {task.spec.name!r} has {len(expected)} classes",
            field="head",
            remedy="import it under the task that it was trained for",
        )
    places = [names.index(name) for name in expected]
    return {name: tensor[places].clone() if name in ROWS else tensor for name, tensor in head.items()}
