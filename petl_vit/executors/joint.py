"""Several adapters that learn in one forward: the frozen operations run once over the rows of all of them.

`Joint` does to every adapter's rows what a `Functional` of its own would do to them, out of place and with
gradients, random numbers included. What makes rows longer, gives them other parameters or reads other rows'
keys cannot share a forward and is refused by name.

Shapes: B rows of all adapters, N tokens, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from petl_vit.edit_set import EditSet
from petl_vit.edits import Dense, Edit, Queries, Tokens, attend
from petl_vit.errors import Unsupported
from petl_vit.executors.frozen import frozen_norm, merge_heads, split_heads
from petl_vit.executors.functional import Functional
from petl_vit.methods.method import Method, edit_kinds
from petl_vit.products import Params, linear
from petl_vit.vit import FrozenViT

_ALONE: dict[type, str] = {
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
    for kind, why in _ALONE.items():
        if kind.__name__ in kinds:
            raise Unsupported(
                f"{method.title} cannot share a forward: {why}", field="method", remedy="train it alone"
            )


class Noise:
    """Random numbers of one's own: those that a device's default generator gives after a seed.

    Dropout takes no generator, so its default one is set within `with` and read back after it.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            self._shared = torch.cuda.default_generators[index]
        else:
            self._shared = torch.default_generator
        self._state = torch.Generator(device).manual_seed(seed).get_state()

    def __enter__(self) -> None:
        self._shared.set_state(self._state)

    def __exit__(self, *_: object) -> None:
        self._state = self._shared.get_state()


@dataclass(frozen=True, kw_only=True)
class Learner:
    """One adapter's part in a forward.

    Attributes:
        rows: How many of the batch's rows are its own.
        drop_path: As `Functional` has it.
        noise: What its dropout and drop path draw from.
    """

    rows: int
    edits: Sequence[Edit]
    drop_path: float
    noise: Noise


class _Lane:
    """A learner's edits by where they act, and the executor that it would have alone."""

    def __init__(self, vit: FrozenViT, learner: Learner) -> None:
        self.edits = EditSet(learner.edits)
        refused = [*self.edits.dense, *self.edits.tokens, *self.edits.queries]
        assert not refused, "check_joins refuses these"
        self.alone = Functional(vit, learner.edits, training=True, drop_path=learner.drop_path)
        self.drops_path, self.noise = learner.drop_path > 0, learner.noise

    def edited(self, site: str, x: Tensor, y: Tensor) -> Tensor:
        found = self.edits.sites.get(site)
        if not found:
            return y
        with self.noise:
            return sum((edit.delta(x, y, None, True) for edit in found), start=y)

    def attend(self, block: int, qkv: Tensor) -> Tensor:
        with self.noise:
            return self.alone.attend(block, qkv)

    def add(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        with self.noise:
            return self.alone.add(sublayer, stream, normed, out)


class Joint:
    """Several adapters' edits, each on its own rows, which lie in the order of `learners`.

    Args:
        vit: The backbone.
        learners: Together they have all rows of the batch.
    """

    def __init__(self, vit: FrozenViT, learners: Sequence[Learner]) -> None:
        self._arch, self.params = vit.arch, vit.params
        self._sizes = [learner.rows for learner in learners]
        self._lanes = [_Lane(vit, learner) for learner in learners]

    def _by_lane(self, *tensors: Tensor) -> Iterator[tuple[_Lane, tuple[Tensor, ...]]]:
        """Each lane with its rows. A split has one gradient; those of slices would be added one by one."""
        parts = zip(*(tensor.split(self._sizes) for tensor in tensors), strict=True)
        return zip(self._lanes, parts, strict=True)

    def _edited(self, site: str, x: Tensor, y: Tensor) -> Tensor:
        if not any(site in lane.edits.sites for lane in self._lanes):
            return y
        return torch.cat([lane.edited(site, *rows) for lane, rows in self._by_lane(x, y)])

    def over(self, names: Sequence[str], compute: Callable[[Tensor, Params], Tensor], x: Tensor) -> Tensor:
        return compute(x, self.params)

    def embed(self, patches: Tensor) -> Tensor:
        return self._edited("patch_embed.proj", patches, patches)

    def linear(self, site: str, x: Tensor) -> Tensor:
        return self._edited(site, x, linear(self.params, site, x))

    def norm(self, site: str, x: Tensor) -> Tensor:
        return self._edited(site, x, frozen_norm(self.params, site, x, self._arch.eps))

    def extend(self, x: Tensor) -> Tensor:
        return x

    def strip(self, x: Tensor) -> Tensor:
        return x

    def activate(self, h: Tensor) -> Tensor:
        return self._arch.activation(h)

    def attend(self, block: int, qkv: Tensor) -> Tensor:
        if not any(block in lane.edits.prefixes for lane in self._lanes):
            return merge_heads(attend(*split_heads(qkv, self._arch.heads), []))
        return torch.cat([lane.attend(block, *rows) for lane, rows in self._by_lane(qkv)])

    def feature(self, feature: Tensor) -> Tensor:
        return feature

    def add(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        if not any(sublayer in lane.edits.branches or lane.drops_path for lane in self._lanes):
            return stream + out
        return torch.cat([lane.add(sublayer, *rows) for lane, rows in self._by_lane(stream, normed, out)])
