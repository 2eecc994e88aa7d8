"""FacT adapters that the study's code saved (github OSU-MLB/PETL_Vision), registered as `fact_tt`.

Its state dict has the frozen ViT, and the factors under every block that uses them. FacT-TT's cores are
linears [out, in]. FacT-TK makes of each block a slab T[x, y, j], and reshapes the four j of fc1 to [r, 4 r]
row by row: chunk c of fc1 is columns c r to (c + 1) r of it, which mixes the units j; fc2's is the same,
transposed. That is not a core for each unit, as our `fact_tk` has, but is exactly a free core for each chunk:
`fact_tt`. A checkpoint does not say its scale (`fact_scaler`).

Shapes: D width, r rank, M blocks.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from model_store.format.records import TaskRecord
from model_store.format.tensors import not_finite
from model_store.interchange.foreign import Foreign, Order, Registered, ordered_head, rows
from model_store.sources import checkpoint
from model_store.sources.wrapping import listed
from model_store.store import Store
from petl_vit.architecture import Architecture, describe
from petl_vit.errors import Corrupt, InvalidInput, Unsupported
from petl_vit.methods import fact
from petl_vit.methods.fact_tt import FacTTT

_FACTOR = re.compile(r"(?:.*\.)?FacT([uv]\.weight|p|c)")
_CORE = re.compile(r"(?:.*\.)?per_block_para\.(\d{1,4})\.(attn|mlp)\.(\d)\.weight")
_HEAD = ("head.weight", "head.bias")
_CLOSE = 1e-5
_Key = TypeVar("_Key")


@dataclass(frozen=True, kw_only=True)
class FacT:
    """A checkpoint of the study's FacT.

    Attributes:
        factors: `u.weight`, `v.weight`, and FacT-TK's `c` and `p`, as the file has them.
        cores: FacT-TT's linears by block, part and number; empty for FacT-TK.
        rest: The head's tensors, and the frozen ones that the file may have.
    """

    name: str
    factors: dict[str, Tensor]
    cores: dict[tuple[int, str, int], Tensor]
    rest: dict[str, Tensor]
    scale: float

    @property
    def said(self) -> str:
        """What it is, for the user."""
        return f"{self._layout} of the study's code"

    def register(
        self,
        store: Store,
        task: TaskRecord,
        *,
        name: str,
        classes: Sequence[str] | None,
        order: Order | None = None,
    ) -> Registered:
        """Register it under a task; and what the user should know.

        Raises:
            InvalidInput: It has no linear head, other classes, or another frozen ViT than the task's.
            Unsupported: The backbone has no such units.
            Corrupt: Its tensors do not fit each other or the backbone.
        """
        record = store.backbones.get(task.spec.backbone_digest)
        arch = describe(record.config).at(task.spec.preprocess.image_size)
        head = self._head()
        frozen = {n: t for n, t in self.rest.items() if n not in head}
        _check_frozen(frozen, store.backbones.load(record), arch, self.name)
        named, notes = rows(task, classes, order)
        method = FacTTT.configure({"rank": self._rank(), "scale": self.scale})
        foreign = Foreign(
            method=method,
            tensors=self._ours(arch) | ordered_head(head, task, named),
            source={"imported_from": "petl-vision", "file": self.name, "layout": self._layout},
        )
        if not frozen:
            notes.append("the file has no frozen weights to compare with the task's backbone")
        return Registered(foreign.register(store, task, name=name), notes)

    @property
    def _layout(self) -> str:
        return "FacT-TT" if self.cores else "FacT-TK"

    def _rank(self) -> int:
        return len(self.factors["u.weight"])

    def _head(self) -> dict[str, Tensor]:
        head = {name: t for name, t in self.rest.items() if name.startswith("head.")}
        if sorted(head) != sorted(_HEAD):
            raise InvalidInput(
                f"its head is not one linear layer but {listed(head) or 'missing'}",
                field=self.name,
                remedy="import a checkpoint with head.weight and head.bias",
            )
        return head

    def _ours(self, arch: Architecture) -> dict[str, Tensor]:
        """The tensors of `fact_tt`."""
        rank = self._rank()
        fact.shared_shapes(arch, rank)  # refuses a backbone without such units
        cores = self._free_cores(arch.depth, rank) if self.cores else self._tucker_cores(arch.depth, rank)
        return {
            "u": self.factors["u.weight"].T.contiguous(),
            "v": self.factors["v.weight"].T.contiguous(),
            "s": cores.contiguous(),
        }

    def _free_cores(self, depth: int, rank: int) -> Tensor:
        """[M, 12, r, r] of FacT-TT."""
        blocks = []
        for block in range(depth):
            linears = [
                *(self._core(block, "attn", unit, (rank, rank)) for unit in range(4)),
                self._core(block, "mlp", 0, (4 * rank, rank)),
                self._core(block, "mlp", 1, (rank, 4 * rank)),
            ]
            blocks.append(torch.stack([w.T for w in linears[:4]] + _chunks(linears[4].T, linears[5])))
        return torch.stack(blocks)

    def _core(self, block: int, part: str, number: int, shape: tuple[int, int]) -> Tensor:
        core = self.cores.get((block, part, number))
        if core is None or tuple(core.shape) != shape:
            said = "missing" if core is None else f"of shape {tuple(core.shape)}"
            where = f"per_block_para.{block}.{part}.{number}.weight"
            raise Corrupt(f"{where} is {said}, expected {shape}", field=self.name, remedy="save it again")
        return core

    def _tucker_cores(self, depth: int, rank: int) -> Tensor:
        """[M, 12, r, r] of FacT-TK."""
        c, p = self.factors["c"], self.factors["p"]
        expected = {"c": (rank, rank, rank), "p": (rank, fact.UNITS * depth)}
        for name, shape in expected.items():
            if tuple(self.factors[name].shape) != shape:
                problem = f"FacT{name} has shape {tuple(self.factors[name].shape)}, expected {shape}"
                raise Corrupt(problem, field=self.name, remedy="import it under a task on its own backbone")
        blocks = []
        for slab in (c @ p).split(fact.UNITS, dim=-1):  # [r, r, 12]
            attention = list(slab[:, :, :4].unbind(-1))
            fc1, fc2 = (slab[:, :, units].reshape(rank, 4 * rank) for units in (slice(4, 8), slice(8, 12)))
            blocks.append(torch.stack(attention + _chunks(fc1, fc2)))
        return torch.stack(blocks)


def is_one(names: Iterable[str]) -> bool:
    """Whether a table of tensors has FacT's factors."""
    return any(_FACTOR.fullmatch(name.removeprefix("model_state_dict.")) for name in names)


def read(path: Path, *, scale: float | None) -> FacT:
    """Read a checkpoint of the study's code: `model.pt`, or the trained tensors alone.

    Args:
        scale: The `fact_scaler` of the run's config.

    Raises:
        InvalidInput: No scale; or a file that cannot be read without running code.
        Unsupported: Another method of the study.
        Corrupt: Blocks that should share a factor have different ones, or a factor is missing or not finite.
    """
    found = checkpoint.all_tensors(path)
    factors: dict[str, Tensor] = {}
    cores: dict[tuple[int, str, int], Tensor] = {}
    rest: dict[str, Tensor] = {}
    for full_name, tensor in found.items():
        name = full_name.removeprefix("model_state_dict.")
        if (factor := _FACTOR.fullmatch(name)) is not None:
            _put(factors, factor[1], tensor, path.name)
        elif (core := _CORE.fullmatch(name)) is not None:
            _put(cores, (int(core[1]), core[2], int(core[3])), tensor, path.name)
        else:
            rest[name] = tensor
    if not {"u.weight", "v.weight"} <= factors.keys() or ({"c", "p"} <= factors.keys()) == bool(cores):
        raise Unsupported(
            f"it holds no FacT of the study's code: {listed(rest)}",
            field=path.name,
            remedy="of the study's methods FacT-TT and FacT-TK are read; a whole ViT has --format timm",
        )
    bad = not_finite(found)
    if bad is not None:
        raise Corrupt(f"tensor {bad!r} holds NaN or an infinity", field=path.name, remedy="save it again")
    if scale is None:
        raise InvalidInput(
            "a checkpoint of FacT does not say its scale",
            field="scale",
            remedy="add --scale with the fact_scaler of the run's config",
        )
    return FacT(name=path.name, factors=factors, cores=cores, rest=rest, scale=scale)


def _chunks(fc1: Tensor, fc2: Tensor) -> list[Tensor]:
    """The eight cores of an MLP, from fc1's [r, 4 r] and fc2's [r, 4 r], which is transposed in use."""
    return [*fc1.chunk(4, dim=1), *(chunk.T for chunk in fc2.chunk(4, dim=1))]


def _put(found: dict[_Key, Tensor], key: _Key, tensor: Tensor, what: str) -> None:
    """Takes a tensor that the state dict may have once for every module that shares it."""
    if key in found and not torch.equal(found[key], tensor):
        raise Corrupt(f"its blocks have different {key!r}", field=what, remedy="save the state dict again")
    found[key] = tensor


def _check_frozen(
    found: Mapping[str, Tensor], backbone: Mapping[str, Tensor], arch: Architecture, what: str
) -> None:
    """Refuses another ViT than the task's; the position embedding may be of another image size."""
    foreign = sorted(found.keys() - arch.shapes.keys())
    if foreign:
        raise Unsupported(
            f"it holds {listed(foreign)} besides FacT",
            field=what,
            remedy="of the study's methods FacT-TT and FacT-TK are read, each alone",
        )
    for name in sorted(found.keys() - {"pos_embed"}):
        ours, theirs = backbone[name].float(), found[name].float()
        if ours.shape != theirs.shape or float((ours - theirs).abs().max()) > _CLOSE:
            raise InvalidInput(
                f"its frozen {name} is not that of the task's backbone",
                field=what,
                remedy="import the ViT that it was trained over with `corolla backbones import`, "
                "and give --task a task on it",
            )
