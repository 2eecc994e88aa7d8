"""An adapter in memory: checked against its backbone, its edits ready to run.

Knows one backbone, one method's tensors and two heads (the adapter's and its task's base head). Does not
know files, names or versions: an adapter's identity is its digest.
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
        exact_on: The float32 backbone to run its rows on, where products in bf16 change its answers too
            much; None where its rows run with all others.
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

        They stay in host memory; `petl_vit.slots` brings them to the backbone's device. Heads are small and
        always run on the host.

        Raises:
            Corrupt: A tensor is missing, unexpected or of the wrong shape, or the head's kind is not that
                of the base head.
        """
        head = heads.load_like(base_head, tensors)
        trained = {name: t for name, t in tensors.items() if not name.startswith("head.")}
        check_tensors(trained, method.shapes(vit.arch), what=f"{method.name} adapter {digest[:12]}")
        moved = {name: t.to(device=vit.device, dtype=vit.dtype) for name, t in trained.items()}
        edits = [_like_frozen(edit, vit) for edit in method.edits(vit, moved)]
        packed = EditSet(edits).packed().on_host()  # computes the keys and values of prefixes
        _ = packed.form, packed.first_block  # computed here, not in the first forward
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
        """Bytes in memory, constant keys and values included; shared memory counts once."""
        tensors = [*self.head.tensors().values(), *self.edits.all_tensors()]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
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
    """A `Dense` edit in the dtype of the parameter that it replaces; all others as they are."""
    if not isinstance(edit, Dense):
        return edit
    return replace(edit, tensor=edit.tensor.to(vit.params[edit.name].dtype))
