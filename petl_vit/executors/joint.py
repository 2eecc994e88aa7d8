"""Several adapters that learn in one forward: the frozen operations run once over the rows of all of them.

`Joint` does to each adapter's rows what a `Functional` for them alone would do, out of place and with
gradients, random numbers included. Edits that make rows longer, replace parameters or read a block's keys
cannot share a forward, and are refused by name.

Shapes: B rows of all adapters, N tokens, D width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from petl_vit.edit_set import EditSet
from petl_vit.edits import Dense, Edit
from petl_vit.errors import Unsupported
from petl_vit.executor import Executor
from petl_vit.executors.functional import Functional
from petl_vit.methods.method import Method, edit_kinds
from petl_vit.noise import Noise
from petl_vit.prompts import Queries, Tokens
from petl_vit.vit import FrozenViT

_CANNOT_SHARE: dict[type, str] = {
    Tokens: "it carries tokens along",
    Dense: "it replaces parameters",
    Queries: "it joins queries to the feature",
}


def check_joins(method: type[Method]) -> None:
    """Refuses a method whose adapters cannot learn in one forward with others.

    Raises:
        Unsupported: Says why.
    """
    kinds = edit_kinds(method())
    for kind, why in _CANNOT_SHARE.items():
        if kind.__name__ in kinds:
            raise Unsupported(
                f"{method.title} cannot share a forward: {why}", field="method", remedy="train it alone"
            )


@dataclass(frozen=True, kw_only=True)
class Learner:
    """One adapter's part in a forward.

    Attributes:
        rows: How many of the batch's rows it has.
        drop_path: As `Functional` has it.
        noise: The random numbers of its dropout and drop path.
    """

    rows: int
    edits: Sequence[Edit]
    drop_path: float
    noise: Noise


class _Part:
    """A learner's edits by where they act, and the executor that it would have alone."""

    def __init__(self, vit: FrozenViT, learner: Learner) -> None:
        self.edits = EditSet(learner.edits)
        refused = [*self.edits.dense, *self.edits.tokens, *self.edits.queries]
        assert not refused, "check_joins refuses these"
        self.alone = Functional(vit, learner.edits, noise=learner.noise, drop_path=learner.drop_path)
        self.drops_path = learner.drop_path > 0


class Joint(Executor):
    """Several adapters' edits, each on its own rows, which lie in the order of `learners`.

    Args:
        vit: The backbone.
        learners: Together they have all rows of the batch.
    """

    def __init__(self, vit: FrozenViT, learners: Sequence[Learner]) -> None:
        self.arch, self.params = vit.arch, vit.params
        self._sizes = [learner.rows for learner in learners]
        self._parts = [_Part(vit, learner) for learner in learners]

    def _by_learner(self, *tensors: Tensor) -> Iterator[tuple[_Part, tuple[Tensor, ...]]]:
        """Each learner with its rows. `split` has one gradient; those of slices would be added one by one."""
        rows = zip(*(tensor.split(self._sizes) for tensor in tensors), strict=True)
        return zip(self._parts, rows, strict=True)

    def edited(self, site: str, x: Tensor, y: Tensor) -> Tensor:
        if not any(site in part.edits.sites for part in self._parts):
            return y
        return torch.cat([part.alone.edited(site, *rows) for part, rows in self._by_learner(x, y)])

    def attend(self, block: int, qkv: Tensor) -> Tensor:
        if not any(block in part.edits.prefixes for part in self._parts):
            return super().attend(block, qkv)
        return torch.cat([part.alone.attend(block, *rows) for part, rows in self._by_learner(qkv)])

    def add(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        if not any(sublayer in part.edits.branches or part.drops_path for part in self._parts):
            return super().add(sublayer, stream, normed, out)
        return torch.cat(
            [part.alone.add(sublayer, *rows) for part, rows in self._by_learner(stream, normed, out)]
        )
