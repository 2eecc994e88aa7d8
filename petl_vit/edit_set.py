"""The edits of one adapter by where they act, laid out so that many adapters' edits stack.

Edit sets of one *form* have the same kinds of edits at the same sites and of the same widths, so their
tensors stack, and one kernel serves rows of many adapters. Ranks and bottlenecks are padded with zeros to
size classes, the powers of two. This changes no result: zero columns of a down projection meet zero rows of
the up projection. Source: the padded banks of arXiv 2310.18547 (Punica) and 2311.03285 (S-LoRA).

Shapes: B rows, D width, R rank or bottleneck, n prompts, H heads, d head width.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cached_property
from itertools import count
from math import inf, prod
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.branch import Branch
from petl_vit.device import long_lived_zeros
from petl_vit.edits import Affine, AtSite, Dense, Edit, Input, LowRank, NormDelta
from petl_vit.products import Params, wide
from petl_vit.prompts import Prefix, Queries, Tokens

KeysValues = Mapping[int, list[tuple[Tensor, Tensor]]]
"""Each block's constant added keys and values, each [1 or B, H, n, d]."""

_FORMS: dict[Hashable, int] = {}
_NUMBERS = count(1)
NO_FORM = 0
_ALIGNED = 16  # elements: 64 bytes of fp32, a cache line

_TENSORS: dict[type, tuple[str, ...]] = {
    Affine: ("scale", "shift"),
    NormDelta: ("weight", "bias"),
    LowRank: ("a", "b", "a0", "shift"),
    Input: ("diagonal", "blocks", "scale"),
    Branch: ("down", "down_bias", "up", "up_bias"),
    Prefix: (),
}
_TRANSPOSED = frozenset({"a", "down"})  # stored as [R, in]: a product with few columns is twice as fast
_CONSTANTS: dict[type, tuple[str, ...]] = {
    Affine: ("site",),
    NormDelta: ("site", "eps"),
    LowRank: ("site",),
    Input: ("site", "outputs"),
    Branch: ("sublayer", "source", "activation", "scale"),
    Prefix: ("block", "weight"),
}


class EditSet:
    """The edits of one adapter, by where they act. `Dense` ones act at no site: they are folded.

    Args:
        keys_values: The prefixes' keys and values, where they are computed already.
    """

    def __init__(self, edits: Sequence[Edit], keys_values: KeysValues | None = None) -> None:
        self.edits = tuple(edits)
        self.sites: dict[str, list[AtSite]] = {}
        self.branches: dict[str, list[Branch]] = {}
        self.prefixes: dict[int, list[Prefix]] = {}
        self.tokens: list[Tokens] = []
        self.queries: list[Queries] = []
        self.dense: list[Dense] = []
        self._known_keys_values = keys_values
        for edit in edits:
            match edit:
                case Branch():
                    self.branches.setdefault(edit.sublayer, []).append(edit)
                case Prefix():
                    self.prefixes.setdefault(edit.block, []).append(edit)
                case Tokens():
                    self.tokens.append(edit)
                case Queries():
                    self.queries.append(edit)
                case Dense():
                    self.dense.append(edit)
                case _:
                    self.sites.setdefault(edit.site, []).append(edit)

    @property
    def prompts(self) -> bool:
        """Whether edits add keys to the attention, where a negative alpha has no meaning."""
        return bool(self.prefixes or self.tokens)

    @property
    def extra_tokens(self) -> int:
        """How many prompt tokens each row carries."""
        return sum(len(tokens.prompts) for tokens in self.tokens)

    @cached_property
    def keys_values(self) -> KeysValues:
        """Every block's constant added keys and values, each [1, H, n, d]; computed once."""
        if self._known_keys_values is not None:
            return self._known_keys_values
        with torch.no_grad():
            return {block: [_constant(p) for p in prefixes] for block, prefixes in self.prefixes.items()}

    @cached_property
    def first_block(self) -> float:
        """The first block that the edits change; infinite where they change none."""
        if self.tokens or self.queries:
            return 0
        return min(self.blocks, default=inf)

    @cached_property
    def blocks(self) -> frozenset[float]:
        """The blocks that the edits act in: 0 also for those before the blocks, infinity for those after."""
        return frozenset(map(block_of, self.edits))

    def all_tensors(self) -> list[Tensor]:
        """Every tensor of the edits, in any order; several may share memory."""
        keys_values = [t for pairs in self.keys_values.values() for pair in pairs for t in pair]
        return keys_values + [tensor for edit in self.edits for tensor in _tensors_in(edit)]

    def mapped(self, move: Callable[[Tensor], Tensor]) -> Self:
        """The same edits with `move` applied to every tensor, the constant keys and values included."""
        keys_values = {
            block: [(move(keys), move(values)) for keys, values in pairs]
            for block, pairs in self.keys_values.items()
        }
        return type(self)([_mapped(edit, move) for edit in self.edits], keys_values)

    def over(self, params: Params) -> Self:
        """The same edits, reading the frozen weights that they multiply by in `params`."""
        if not any(isinstance(edit, Input) for edit in self.edits):
            return self
        edits = [replace(edit, frozen=params) if isinstance(edit, Input) else edit for edit in self.edits]
        return type(self)(edits, self.keys_values)

    def on_host(self) -> Self:
        """The same edits in host memory; edits of a GPU in pinned memory, which the GPU can read."""
        if all(tensor.is_cpu for tensor in self.all_tensors()):
            return self
        return self.mapped(_on_host) if self.form == NO_FORM else self.at(_on_host(self.flat))

    # Stacking

    @cached_property
    def form(self) -> int:
        """A number: edit sets of equal forms stack; one of `NO_FORM` does not stack."""
        if self.dense or self.tokens or self.queries:
            return NO_FORM
        shapes = tuple(tuple(tensor.shape) for tensor in self._tensors())
        return _FORMS.setdefault((tuple(map(_constants, self.edits)), shapes), next(_NUMBERS))

    @cached_property
    def flat(self) -> Tensor:
        """All stacking tensors in one vector, each at a multiple of 64 bytes: the contents of a slot."""
        tensors = self._tensors()
        flat = (
            long_lived_zeros(sum(_room(t.numel()) for t in tensors), tensors[0])
            if tensors
            else torch.zeros(0)
        )
        for tensor, part in zip(tensors, _parts(flat, tensors), strict=True):
            part.copy_(tensor)
        return flat

    def packed(self) -> Self:
        """The same edits in their size classes, with tensors that are views of one `flat` vector.

        A branch's scale is multiplied into its up projection, so that branches of different scales stack.
        """
        padded = type(self)([_padded(edit) for edit in self.edits], self.keys_values)
        return padded if padded.form == NO_FORM else padded.at(padded.flat)

    def at(self, flat: Tensor) -> Self:
        """The same edits with tensors that are views of a flat vector [L] of this form."""
        edits = self._with(_parts(flat, self._tensors()))
        edits.flat, edits.form = flat, self.form
        return edits

    def with_rows(self, flats: Tensor) -> Self:
        """The same edits with separate tensors for each row, from flat vectors [B, L] of this form."""
        shapes = self._row_shapes
        parts = flats.split([_room(prod(shape)) for shape in shapes], dim=1) if shapes else ()
        return self._with(
            [part[:, : prod(shape)].view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
        )

    @cached_property
    def _row_shapes(self) -> list[tuple[int, ...]]:
        """Each tensor's shape for one row: vectors as [1, W], keys and values without their leading 1."""
        of_edits = [tuple(tensor.shape) for edit in self.edits for tensor in _tensors_of(edit)]
        keys_values = [
            tuple(t.shape[1:]) for pairs in self.keys_values.values() for pair in pairs for t in pair
        ]
        return [(1, *shape) if len(shape) == 1 else shape for shape in of_edits] + keys_values

    def _tensors(self) -> list[Tensor]:
        """The stacking tensors, in a fixed order."""
        of_edits = [tensor for edit in self.edits for tensor in _tensors_of(edit)]
        return of_edits + [t for pairs in self.keys_values.values() for pair in pairs for t in pair]

    def _with(self, tensors: Sequence[Tensor]) -> Self:
        """The same edits with other tensors, in the order of `_tensors`."""
        rest = iter(tensors)
        edits = [_with_tensors(edit, rest) for edit in self.edits]
        keys_values = {
            block: [(next(rest), next(rest)) for _ in pairs] for block, pairs in self.keys_values.items()
        }
        return type(self)(edits, keys_values)


def _constant(prefix: Prefix) -> tuple[Tensor, Tensor]:
    """A prefix's keys and values in at least float32, as an adapter's other tensors, also in bf16."""
    keys, values = prefix.keys_values(1)
    return wide(keys), wide(values)


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.cpu().pin_memory() if tensor.is_cuda else tensor.cpu()


def _room(elements: int) -> int:
    """The elements that a tensor takes in a flat vector."""
    return -(-elements // _ALIGNED) * _ALIGNED


def _parts(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Views of a flat vector [L] in the shapes of `tensors`."""
    parts = flat.split([_room(t.numel()) for t in tensors]) if tensors else ()
    return [part[: t.numel()].view(t.shape) for part, t in zip(parts, tensors, strict=True)]


def size_class(rank: int) -> int:
    """The power of two that a rank or bottleneck is padded to."""
    return 1 << max(0, rank - 1).bit_length()


def _tensors_in(value: object) -> list[Tensor]:
    """The tensors of a record, and of the records and tuples in it."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple):
        return [t for item in value for t in _tensors_in(item)]
    return _tensors_in(tuple(vars(value).values())) if is_dataclass(value) else []


def _mapped(value: Any, move: Callable[[Tensor], Tensor]) -> Any:
    """A record with `move` applied to its tensors, and to those of the records and tuples in it."""
    if isinstance(value, Tensor):
        return move(value)
    if isinstance(value, tuple):
        return tuple(_mapped(item, move) for item in value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{f.name: _mapped(getattr(value, f.name), move) for f in fields(value)})


def block_of(edit: Edit) -> float:
    """The block that an edit acts in: 0 also where it comes before the blocks, infinity where after."""
    match edit:
        case Branch():
            return block_of_site(edit.sublayer)
        case Prefix():
            return edit.block
        case Dense():
            return block_of_site(edit.name)
        case Tokens() | Queries():
            return 0
        case _:
            return block_of_site(edit.site)


def block_of_site(site: str) -> float:
    """The block of a site, a sublayer or a parameter, as `block_of`."""
    name, _, rest = site.partition(".")
    if name == "blocks":
        return int(rest.partition(".")[0])
    return inf if name in ("norm", "fc_norm", "attn_pool") else 0


def _constants(edit: Edit) -> Hashable:
    """All of an edit that is not a tensor."""
    present = tuple(getattr(edit, name) is not None for name in _TENSORS[type(edit)])
    constants = tuple(getattr(edit, name) for name in _CONSTANTS[type(edit)])
    conv = edit.conv.grid if isinstance(edit, Branch) and edit.conv is not None else None
    return type(edit).__name__, present, constants, conv


def _tensors_of(edit: Edit) -> Iterator[Tensor]:
    """The edit's tensors as they lie in memory."""
    for name in _TENSORS[type(edit)]:
        tensor = getattr(edit, name)
        if tensor is not None:
            yield tensor.transpose(-2, -1) if name in _TRANSPOSED else tensor
    if isinstance(edit, Branch) and edit.conv is not None:
        yield from (edit.conv.weight, edit.conv.bias)


def _with_tensors(edit: Edit, tensors: Iterator[Tensor]) -> Edit:
    """The edit with its tensors replaced by the next of `tensors`, in the order of `_tensors_of`."""
    changes: dict[str, Any] = {
        name: next(tensors).transpose(-2, -1) if name in _TRANSPOSED else next(tensors)
        for name in _TENSORS[type(edit)]
        if getattr(edit, name) is not None
    }
    if isinstance(edit, Branch) and edit.conv is not None:
        changes["conv"] = replace(edit.conv, weight=next(tensors), bias=next(tensors))
    return replace(edit, **changes)


def _padded(edit: Edit) -> Edit:
    if isinstance(edit, LowRank) and edit.a.shape[1] == edit.b.shape[0]:  # FacT's parts keep their ranks
        more = size_class(edit.b.shape[0]) - edit.b.shape[0]
        a0 = None if edit.a0 is None else F.pad(edit.a0, (0, more))
        return replace(edit, a=_wider(edit.a, more), b=_longer(edit.b, more), a0=a0) if more else edit
    if isinstance(edit, Branch):
        more = size_class(edit.up.shape[0]) - edit.up.shape[0]
        conv = edit.conv
        if conv is not None and more:
            weight = F.pad(conv.weight, (0, 0, 0, 0, 0, more, 0, more))
            conv = replace(conv, weight=weight, bias=F.pad(conv.bias, (0, more)))
        return replace(
            edit,
            down=_wider(edit.down, more),
            down_bias=F.pad(edit.down_bias, (0, more)),
            up=_longer(edit.up, more) * edit.scale,
            up_bias=edit.up_bias * edit.scale,
            scale=1.0,
            conv=conv,
        )
    return edit


def _wider(matrix: Tensor, more: int) -> Tensor:
    return F.pad(matrix, (0, more)) if more else matrix


def _longer(matrix: Tensor, more: int) -> Tensor:
    return F.pad(matrix, (0, 0, 0, more)) if more else matrix
