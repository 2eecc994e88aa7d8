"""Folders of Hugging Face PEFT, registered: a reader for every type of adapter, and the head beside it.

`READERS` maps PEFT's `peft_type` to the reader of its family of types, each in a file of its own
(`peft_<family>`). A reader gets what `peft_folder` read, sorted by the backbone's linears and norms, and
gives a `Foreign` without a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model_store.collections.adapters import Published
from model_store.format.records import TaskRecord
from model_store.interchange import peft_folder, peft_lora, peft_names
from model_store.interchange.foreign import Foreign, Order, ordered_head, rows
from model_store.interchange.peft_folder import PeftFolder, Tuned, refusal
from model_store.interchange.peft_names import OF_TRANSFORMERS, Named
from model_store.store import Store
from petl_vit.architecture import describe, swiglu
from petl_vit.errors import InvalidInput

Reader = Callable[[Tuned], Foreign]

READERS: dict[str, Reader] = {"LORA": peft_lora.read}


@dataclass(frozen=True, kw_only=True)
class Peft:
    """A PEFT folder on its way into the store."""

    folder: PeftFolder

    def register(
        self,
        store: Store,
        task: TaskRecord,
        *,
        name: str,
        classes: Sequence[str] | None,
        order: Order | None = None,
    ) -> tuple[Published, list[str]]:
        """Register it under a task; and what the user should know.

        Raises:
            InvalidInput: No head, or other classes than the task.
            Unsupported: It cannot be represented exactly, or is not of the task's backbone; names what.
            Corrupt: It is not what PEFT writes, or its shapes are not the backbone's.
        """
        reader = READERS.get(self.folder.peft_type)
        if reader is None:
            raise refusal(f"peft_type {self.folder.peft_type!r}", "it is none of " + ", ".join(READERS))
        record = store.backbones.get(task.spec.backbone_digest)
        arch = describe(record.config).at(task.spec.preprocess.image_size)
        named = peft_names.sorted_out(self.folder.tensors, gated=arch.activation is swiglu)
        foreign = reader(
            Tuned(
                folder=self.folder,
                arch=arch,
                adapted=named.adapted,
                others=named.others,
                load=lambda: store.backbones.load(record),
            )
        )
        if not named.head:
            raise InvalidInput(
                "it brings no head",
                field="modules_to_save",
                remedy='train it with modules_to_save=["head"], so that the folder can classify',
            )
        of_rows, notes = rows(task, classes, order)
        whole = replace(foreign, tensors=foreign.tensors | ordered_head(named.head, task, of_rows))
        published = whole.register(store, task, name=name)
        return published, [*self.folder.notes, *_prefix(named), *foreign.notes, *notes]


def read(path: Path) -> Peft:
    """Read a PEFT folder.

    Raises:
        NotFound: It, or one of its two files, does not exist.
        InvalidInput: A file cannot be read, or not without running its code.
        Corrupt: It is not what PEFT writes.
    """
    return Peft(folder=peft_folder.read(path))


def _prefix(named: Named) -> list[str]:
    if not named.prefix or named.prefix in OF_TRANSFORMERS:
        return []
    return [f"the prefix {f'{named.prefix}.'!r} was taken off all names"]
