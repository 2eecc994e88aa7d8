"""An adapter in memory: checked against its backbone, its edits ready to run.

Knows one backbone, one method's tensors and the two heads (its own and its task's base head). Does
not know files, names or versions: its identity is its digest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from petl_vit import heads
from petl_vit.architecture import check_tensors
from petl_vit.edit_set import EditSet
from petl_vit.edits import Dense, Edit
from petl_vit.heads import Head
from petl_vit.methods.linear import Linear
from petl_vit.methods.method import Method
from petl_vit.vit import FrozenViT


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """Edits and a head. At alpha = 0 it is the frozen backbone with the base head.

    Attributes:
        exact_on: The backbone in float32 that its rows need, where products in bf16 change its answers too
            much; None where they run with all others.
    """

    digest: str
    method: Method
    edits: EditSet
    head: Head
    base_head: Head
    task_digest: str
    exact_on: FrozenViT | None = None

    @classmethod
    def load(
        cls,
        *,
        digest: str,
        method: Method,
        tensors: Mapping[str, Tensor],
        vit: FrozenViT,
        base_head: Head,
        task_digest: str,
    ) -> Self:
        """Checks the tensors against method and backbone.

        They stay in host memory; a forward has them where the backbone is (`petl_vit.slots`). Heads are
        small and always run on the host.

        Raises:
            Corrupt: A tensor is missing, unexpected or of the wrong shape, or the head is not of the base
                head's kind.
        """
        head = heads.load_like(base_head, tensors)
        own = {name: t for name, t in tensors.items() if not name.startswith("head.")}
        check_tensors(own, method.shapes(vit.arch), what=f"{method.name} adapter {digest[:12]}")
        moved = {name: t.to(device=vit.device, dtype=vit.dtype) for name, t in own.items()}
        edits = [_like_frozen(edit, vit) for edit in method.edits(vit, moved)]
        packed = EditSet(edits).packed().on_host()  # keys and values are computed on the way
        _ = packed.form, packed.first_block
        return cls(
            digest=digest,
            method=method,
            edits=packed,
            head=head.to(device=torch.device("cpu"), dtype=vit.dtype),
            base_head=base_head,
            task_digest=task_digest,
        )

    @cached_property
    def nbytes(self) -> int:
        """Bytes that it keeps, its constant keys and values included; shared memory counts once."""
        found = [*self.head.tensors().values(), *self.edits.all_tensors()]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}
        return sum(storages.values())

    @classmethod
    def base(cls, *, base_head: Head, task_digest: str) -> Self:
        """The frozen backbone with a task's base head, as an adapter."""
        return cls(
            digest=task_digest,
            method=Linear(),
            edits=EditSet([]),
            head=base_head,
            base_head=base_head,
            task_digest=task_digest,
        )


def _like_frozen(edit: Edit, vit: FrozenViT) -> Edit:
    """A replaced parameter in the dtype of what it replaces; all others as they are."""
    if not isinstance(edit, Dense):
        return edit
    return replace(edit, tensor=edit.tensor.to(vit.params[edit.name].dtype))
