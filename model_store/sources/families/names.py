"""How a library names the tensors of a family of ViTs: one table, read in both ways.

A table says what each of our tensors is called there. Where one of ours is several there (queries, keys and
values), it is their rows one after another; where a library has had several spellings, all are read and the
first is written.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from petl_vit.errors import Unsupported

Spelling = tuple[str, ...]
"""The names, in order of the rows, of the parts that one of our tensors is; mostly one name."""
Table = dict[str, tuple[Spelling, ...]]

_BLOCK = re.compile(r"blocks\.(\d{1,4})\.(.+)")
_POOL = {"attn_pool.q": 1, "attn_pool.kv": 2}
_POOLED = "attn_pool.qkv"
"""In tables, what queries, keys and values of attention pooling are together."""
_QKV_BIAS = "attn.qkv.bias"


class Place(NamedTuple):
    """One of our tensors, or a part of its rows."""

    name: str
    part: int
    parts: int


@dataclass(frozen=True, kw_only=True)
class Names:
    """How one library names a family of ViTs.

    Attributes:
        title: What it is, for the user.
        anchor: A tensor that every whole file has; what stands before it is a prefix. None: timm's.
        layers: What stands before the names inside a block, `{}` for its number.
        inside: What our tensors inside a block are called.
        outside: The same for all others.
        flat: How many leading axes of size 1 theirs lack, by our name.
        unused: What names of tensors begin or end with that the forward has no use for.
        keys_without_bias: Whether their keys have no bias.
        classifier_reads: What a classifier of the library reads, where that is never the pooled feature.
    """

    title: str
    anchor: str | None
    layers: tuple[str, ...]
    inside: Table
    outside: Table
    flat: Mapping[str, int] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    keys_without_bias: bool = False
    classifier_reads: str | None = None

    def place(self, name: str) -> Place | None:
        """Which of our tensors a name of theirs means; None where the table does not have it."""
        match = self._layer.fullmatch(name)
        if match is None:
            return self._outside.get(name)
        number, rest = next(group for group in match.groups() if group is not None), match["rest"]
        place = self._inside.get(rest)
        return None if place is None else place._replace(name=f"blocks.{int(number)}.{place.name}")

    def converts(self, names: Iterable[str]) -> int:
        """How many names the table knows and would change."""
        places = ((name, self.place(name)) for name in names)
        return sum(place is not None and place.name != name for name, place in places)

    def ours(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by our names. What the table does not have, or has a part of, keeps its name."""
        found: dict[str, Tensor] = {}
        parts: dict[str, dict[int, tuple[str, Tensor, int]]] = {}
        for name, tensor in tensors.items():
            place = self.place(name)
            if name.startswith(self.unused) or name.endswith(self.unused):
                continue
            if place is None or place.part in parts.get(place.name, {}):
                found[name] = tensor
            else:
                parts.setdefault(place.name, {})[place.part] = (name, tensor, place.parts)
        for name, of_one in parts.items():
            found |= self._whole(name, of_one)
        return _with_queries_apart(found)

    def theirs(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by their names, of tensors by ours; others keep theirs.

        Raises:
            Unsupported: Keys have a bias, and they have none for them.
        """
        found: dict[str, Tensor] = {}
        for name, tensor in _with_queries_joined(tensors).items():
            match = _BLOCK.fullmatch(name)
            before = "" if match is None else self.layers[0].format(match[1]) + "."
            rest = name if match is None else match[2]
            spellings = (self.outside if match is None else self.inside).get(rest)
            if spellings is None:
                found[name] = tensor
                continue
            tensor = tensor.reshape(tensor.shape[self.flat.get(name, 0) :])
            parts = dict(zip(spellings[0], tensor.chunk(len(spellings[0])), strict=True))
            if rest == _QKV_BIAS and self.keys_without_bias and len(parts) == 3:
                _check_no_bias(name, parts.pop(spellings[0][1]))
            found |= {before + part: rows.contiguous() for part, rows in parts.items()}
        return found

    @cached_property
    def _layer(self) -> re.Pattern[str]:
        starts = "|".join(
            re.escape(layer).replace(r"\{\}", r"(\d{1,4})").replace(r"\*", r"\d{1,4}")
            for layer in sorted(self.layers, key=len, reverse=True)  # `blocks.*.{}` before `blocks.{}`
        )
        return re.compile(rf"(?:{starts})\.(?P<rest>.+)")

    @cached_property
    def _inside(self) -> dict[str, Place]:
        return _places(self.inside)

    @cached_property
    def _outside(self) -> dict[str, Place]:
        return _places(self.outside)

    def _whole(self, name: str, of_one: dict[int, tuple[str, Tensor, int]]) -> dict[str, Tensor]:
        """One of our tensors from its parts; the parts by their names where one is missing."""
        parts = {part: tensor for part, (_, tensor, _) in of_one.items()}
        (_, some, count) = next(iter(of_one.values()))
        if name.endswith(f".{_QKV_BIAS}") and count == 3:  # one that is missing is zero
            parts = {part: parts.get(part, torch.zeros_like(some)) for part in range(count)}
        if len(parts) < count or (count > 1 and not _stack(parts)):
            return {theirs: tensor for theirs, tensor, _ in of_one.values()}
        whole = parts[0] if count == 1 else torch.cat([parts[part] for part in range(count)])
        return {name: whole[(None,) * self.flat.get(name, 0)]}


def both(ours: str, *spellings: Spelling) -> Table:
    """The rows of a table for the weight and the bias of a linear or norm."""
    return {
        f"{ours}.{kind}": tuple(tuple(f"{part}.{kind}" for part in spelling) for spelling in spellings)
        for kind in ("weight", "bias")
    }


def _stack(parts: Mapping[int, Tensor]) -> bool:
    """Whether the rows of tensors can be put one after another."""
    return all(t.dim() for t in parts.values()) and len({t.shape[1:] for t in parts.values()}) == 1


def _places(table: Table) -> dict[str, Place]:
    return {
        part: Place(ours, number, len(spelling))
        for ours, spellings in table.items()
        for spelling in spellings
        for number, part in enumerate(spelling)
    }


def _with_queries_apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        before, _, kind = name.rpartition(".")
        if before == _POOLED and tensor.dim() and len(tensor) % 3 == 0:
            rows = tensor.split([len(tensor) // 3 * share for share in _POOL.values()])
            found |= {f"{part}.{kind}": t for part, t in zip(_POOL, rows, strict=True)}
        else:
            found[name] = tensor
    return found


def _with_queries_joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(tensors)
    for kind in ("weight", "bias"):
        names = [f"{part}.{kind}" for part in _POOL]
        if all(name in found for name in names):
            found[f"{_POOLED}.{kind}"] = torch.cat([found.pop(name) for name in names])
    return found


def _check_no_bias(name: str, keys: Tensor) -> None:
    if keys.any():
        problem = f"{name} has a bias of keys, and there is no name for one"
        raise Unsupported(problem, field="format", remedy="use --format archive")
