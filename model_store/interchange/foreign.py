"""Adapters that other libraries made: what they need before they can be registered.

Such a file knows neither our task nor the digest of its backbone, so both are taken from the task that it is
registered under, and its tensors are held to that task's shapes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue
from torch import Tensor

from model_store.collections.adapters import Published
from model_store.format.records import Draft, TaskRecord
from model_store.store import Store
from petl_vit import heads
from petl_vit.architecture import check_tensors, describe
from petl_vit.errors import InvalidInput
from petl_vit.methods.method import Method


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """An adapter in our terms, on its way into the store.

    Attributes:
        tensors: The method's and the head's, with the head's rows in the order of the task's classes.
        source: How it was made, for the manifest's `training`.
    """

    method: Method
    tensors: dict[str, Tensor]
    source: dict[str, JsonValue]

    def register(self, store: Store, task: TaskRecord, *, name: str) -> Published:
        """Publish it; the same again returns the version that stands there.

        Raises:
            Corrupt: Its tensors are not those of the method and the task.
        """
        config = store.backbones.get(task.spec.backbone_digest).config
        arch = describe(config).at(task.spec.preprocess.image_size)
        own = {n: t for n, t in self.tensors.items() if not n.startswith("head.")}
        check_tensors(own, self.method.shapes(arch), what=f"imported {self.method.name} adapter")
        base = heads.load(store.tasks.load_base_head(task), classes=len(task.spec.classes), width=arch.width)
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


def ordered_head(
    head: Mapping[str, Tensor], task: TaskRecord, classes: Sequence[str] | None
) -> dict[str, Tensor]:
    """A linear head with its rows in the order of the task's classes, matched by name.

    Args:
        head: `head.weight` [C, D] and `head.bias` [C].
        classes: The classes of its rows; None means the task's order.

    Raises:
        InvalidInput: The classes are not the task's, or the head has another number of rows.
    """
    wanted = task.spec.classes
    given = wanted if classes is None else tuple(classes)
    rows = len(head["head.weight"])
    if sorted(given) != sorted(wanted):
        differ = sorted(set(given) ^ set(wanted)) or sorted({name for name in given if given.count(name) > 1})
        raise InvalidInput(
            f"its classes are not those of task {task.spec.name!r}: they differ in {', '.join(differ[:5])}",
            field="classes",
            remedy="import it under a task with its classes",
        )
    if rows != len(wanted):
        raise InvalidInput(
            f"its head has {rows} rows, task {task.spec.name!r} has {len(wanted)} classes",
            field="head",
            remedy="import it under the task that it was trained for",
        )
    places = [given.index(name) for name in wanted]
    return {name: tensor[places].clone() for name, tensor in head.items()}
