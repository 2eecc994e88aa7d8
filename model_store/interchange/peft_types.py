"""Folders of Hugging Face PEFT, registered: a reader for every type of adapter, and the head beside it.

`READERS` maps PEFT's `peft_type` to the reader of its family of types, each in a file of its own
(`peft_<family>`). A reader gets what `peft_folder` read, sorted by the backbone's linears and norms, and
gives a `Foreign` without a head.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from model_store.format.records import TaskRecord
from model_store.interchange import (
    head_file,
    peft_checks,
    peft_dense,
    peft_folder,
    peft_heads,
    peft_lora_kinds,
    peft_low_rank,
    peft_lycoris,
    peft_names,
    peft_refused,
    peft_scales,
    peft_shared,
    peft_turning,
)
from model_store.interchange.foreign import Foreign, Order, Registered, ordered_head, rows
from model_store.interchange.peft_folder import PeftFolder, Tuned
from model_store.interchange.peft_names import OF_TRANSFORMERS, Named
from model_store.interchange.peft_type import Type
from model_store.sources.wrapping import listed
from model_store.store import Store
from petl_vit.architecture import Architecture, describe, swiglu
from petl_vit.errors import InvalidInput

Reader = Callable[[Tuned], Foreign]

TYPES: dict[str, Type] = {"LORA": peft_lora_kinds.TYPE} | {
    name: one
    for family in (peft_low_rank, peft_shared, peft_lycoris, peft_scales, peft_turning, peft_dense)
    for name, one in family.TYPES.items()
}
"""What each type changes at a module; LoRA's variants as well as LoRA."""
READERS: Mapping[str, Reader] = {name: one.read for name, one in TYPES.items()} | {
    "LORA": peft_lora_kinds.read
}


@dataclass(frozen=True, kw_only=True)
class Peft:
    """A PEFT folder on its way into the store."""

    folder: PeftFolder

    @property
    def said(self) -> str:
        """What it is, for the user."""
        by = self.folder.config.get("peft_version")
        return f"a folder of PEFT{f' {by}' if by else ''}, {self.folder.peft_type}"

    def register(
        self,
        store: Store,
        task: TaskRecord,
        *,
        name: str,
        classes: Sequence[str] | None,
        order: Order | None = None,
        head: str | None = None,
    ) -> Registered:
        """Register it under a task.

        Args:
            head: "base" for the task's base head, or a file with one; None is the folder's, else the task's.

        Raises:
            InvalidInput: Other classes than the task, a head for another feature, or an adapter of nothing.
            Unsupported: It cannot be represented exactly; names what.
            Corrupt: It is not what PEFT writes, or its shapes are not the backbone's.
        """
        reader = READERS.get(self.folder.peft_type)
        if reader is None:
            raise peft_refused.refusal(self.folder.peft_type, sorted(READERS))
        record = store.backbones.get(task.spec.backbone_digest)
        arch = describe(record.config).at(task.spec.preprocess.image_size)
        named = peft_names.sorted_out(self.folder.tensors, gated=arch.activation is swiglu)
        checked, left_out = peft_checks.check(self.folder, named), _left_out(named, head)
        foreign = reader(
            Tuned(
                folder=self.folder,
                arch=arch,
                adapted=named.adapted,
                others=named.others,
                load=lambda: store.backbones.load(record),
            )
        )
        chosen, of_head = self._head(store, task, arch, named, head, classes, order)
        whole = replace(foreign, tensors=foreign.tensors | chosen)
        notes = [*self.folder.notes, *_prefix(named), *checked, *foreign.notes, *of_head]
        return Registered(whole.register(store, task, name=name), notes, left_out)

    def _head(
        self,
        store: Store,
        task: TaskRecord,
        arch: Architecture,
        named: Named,
        given: str | None,
        classes: Sequence[str] | None,
        order: Order | None,
    ) -> tuple[dict[str, Tensor], list[str]]:
        """The head's tensors in the task's order, and what the user should know of it."""
        if given is None:
            peft_checks.check_head(self.folder, named)
        if given is not None and given != head_file.BASE:
            read = head_file.read(Path(given), task, classes, width=arch.features)
            head_file.check_width(read.tensors, features=arch.features, width=arch.width)
            of_rows, notes = rows(task, classes, order, said=read.classes)
            return ordered_head(read.tensors, task, of_rows), notes
        if given is None and named.head:
            peft_heads.check_feature(self.folder, named, arch)
            head_file.check_width(named.head, features=arch.features, width=arch.width)
            of_rows, notes = rows(task, classes, order)
            return ordered_head(named.head, task, of_rows), notes
        for field, value in (("classes", classes), ("order", order)):
            if value is not None:
                raise InvalidInput(
                    "the adapter gets the task's base head, whose rows are in the task's order",
                    field=field,
                    remedy="leave it out",
                )
        notes = [] if given else ["it brings no head, so it has the task's base head"]
        return store.tasks.load_base_head(task), notes


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


def _left_out(named: Named, head: str | None) -> tuple[str, ...]:
    """What of the folder is not in the store.

    Raises:
        InvalidInput: It adapts a text tower too, and no head says what that makes of the classes.
    """
    found = []
    if head is not None and named.head:
        found.append("its head, for the one that --head names")
    for why in dict.fromkeys(named.unused.values()):
        names = [name for name, other in named.unused.items() if other == why]
        found.append(f"{listed(names)}: {why}")
    if named.text:
        if head in (None, head_file.BASE):
            raise InvalidInput(
                f"it adapts a text tower too ({named.text[0][:80]})",
                field="head",
                remedy="add --head FILE with the classes' embeddings by the adapted text tower, or train the "
                "image tower alone: target_modules=r'.*vision_model.*(q_proj|v_proj)'",
            )
        found.append(f"{listed(named.text)}: the head has what the text tower says of the classes")
    return tuple(found)
