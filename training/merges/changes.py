"""What an adapter changes, as plain weights: theta_i - theta_0 of every parameter, the papers' task vector.

Changes are computed one place at a time (a linear, a norm, or a parameter by itself), in float64 on the CPU.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from petl_vit.adapter import Adapter
from petl_vit.edit_set import EditSet
from petl_vit.edits import Dense, Edit, Foldable
from petl_vit.errors import Unsupported
from petl_vit.vit import FrozenViT

Named = dict[str, Tensor]


class Changes(Protocol):
    """A member's changes.

    Attributes:
        digest: The member's.
        places: Where it changes something, in order of their names.
    """

    @property
    def digest(self) -> str: ...

    @property
    def places(self) -> tuple[str, ...]: ...

    def at(self, place: str) -> Named:
        """The change of each parameter there that is not left alone, float64 on the CPU."""


class Folded:
    """The changes of an adapter that folds into weights.

    Args:
        vit: Its backbone in float32 or float64, at the task's image size.
        label: What people call the adapter.

    Raises:
        Unsupported: It has edits that are no weights of a ViT; names the adapter and its method.
    """

    def __init__(self, adapter: Adapter, vit: FrozenViT, *, label: str) -> None:
        _check_folds(adapter, label)
        self.digest, self._params, self._edits = adapter.digest, vit.params, dict[str, list[Edit]]()
        for edit in adapter.edits.edits:
            place = place_of(edit.name) if isinstance(edit, Dense) else _site(edit)
            self._edits.setdefault(place, []).append(edit)
        self._names: dict[str, list[str]] = {}
        for name in vit.arch.shapes:
            self._names.setdefault(place_of(name), []).append(name)

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(sorted(self._edits))

    def at(self, place: str) -> Named:
        frozen = {name: _exact(self._params[name]) for name in self._names.get(place, [])}
        changes = {name: torch.zeros_like(weight) for name, weight in frozen.items()}
        for edit in EditSet(self._edits.get(place, [])).mapped(_exact).edits:
            assert isinstance(edit, Foldable)
            edit.fold(frozen, changes, 1.0)
        return {name: change for name, change in sorted(changes.items()) if bool(change.any())}


def place_of(parameter: str) -> str:
    """`blocks.0.attn.qkv` of its weight and its bias; the parameter itself where it belongs to no module."""
    return parameter.rpartition(".")[0] or parameter


def places_of(members: Sequence[Changes]) -> list[str]:
    """Where any member changes something, in order of their names."""
    return sorted({place for member in members for place in member.places})


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()


def _site(edit: Edit) -> str:
    assert isinstance(edit, Foldable)
    assert not isinstance(edit, Dense)
    return edit.site


def _check_folds(adapter: Adapter, label: str) -> None:
    kinds = sorted({type(edit).__name__ for edit in adapter.edits.edits if not isinstance(edit, Foldable)})
    if kinds:
        raise Unsupported(
            f"{label} ({adapter.method.name}) is no change of weights: it has edits of the kind "
            f"{', '.join(kinds)}",
            field="members",
            remedy="leave it out, or use --kind uniform or greedy, which take every method",
        )
