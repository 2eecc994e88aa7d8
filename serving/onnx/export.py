"""ONNX files for others: one model from images to logits, or all adapters of a task behind one backbone.

A file holds all of its weights; the document beside it has the classes, the preprocessing, the inputs, and
which slot has which adapter.

Shapes: U images, B rows, C classes, D width, P numbers of a head.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_store.format.records import TaskRecord
from model_store.format.tensors import not_finite
from model_store.resolution.loading import Loader
from model_store.resolution.versions import Member, ResolvedTerm
from petl_vit.adapter import Adapter
from petl_vit.batch import Model
from petl_vit.edit_set import NO_FORM
from petl_vit.edits import Foldable, fold, scaled
from petl_vit.errors import InvalidInput, Unsupported
from petl_vit.executors.functional import Functional
from petl_vit.heads import ClipHead, Head
from petl_vit.vit import FrozenViT
from serving.onnx.graph import IMAGES, ROWS, Banked, Mixture, record

VERSION = 1
_MOST_BYTES = 2**31 - 2**24  # of one protobuf message, less what is not a weight


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file and the document beside it."""

    graph: bytes
    document: dict[str, Any]


# One model


def plain(loader: Loader, member: Member) -> Exported:
    """One model as a graph from images to logits: foldable edits are folded, the others part of the graph.

    Args:
        loader: Of the member's backbone, on the CPU in float32.

    Raises:
        Corrupt: A stored file is not what its digest says.
        InvalidInput: Its weights are not finite at these alphas.
        Unsupported: It is too large for one ONNX file.
    """
    vit = loader.vit(member.task.spec.preprocess.image_size)
    module = _Plain(vit, loader.model(member))
    images = torch.zeros(IMAGES, 3, vit.arch.image_size, vit.arch.image_size)
    sizes = {"images": {0: "images"}, "logits": {0: "images"}}
    check_size(module)
    graph = record(module, (images,), ["images"], ["logits"], sizes)
    document = _about(loader, member.task) | {
        "route": str(member),
        "digests": {term.label: term.digest for term in member.terms},
        "inputs": {"images": _images("images", vit)},
        "outputs": {"logits": _tensor("float32", "images", len(member.task.spec.classes))},
    }
    return Exported(graph=graph, document=document)


class _Plain(nn.Module):
    """[B, 3, S, S] -> [B, C] under one model."""

    def __init__(self, vit: FrozenViT, model: Model) -> None:
        super().__init__()
        pairs = ((edit, term.alpha_of(edit)) for term in model.edited for edit in term.adapter.edits.edits)
        edits = [(edit, alpha) for edit, alpha in pairs if alpha != 0]
        params = fold(vit.params, [(edit, alpha) for edit, alpha in edits if isinstance(edit, Foldable)])
        bad = not_finite(params)
        if bad is not None:
            raise InvalidInput(
                f"{bad} is no longer finite at this alpha", field="alpha", remedy="choose one inside [0, 1]"
            )
        self._vit = copy.copy(vit)
        self._rest = [scaled(edit, alpha) for edit, alpha in edits if not isinstance(edit, Foldable)]
        self._names, self._head = tuple(params), model.head
        self.weights = _frozen(params.values())
        self.head = _frozen(model.head.tensors().values())

    def forward(self, images: Tensor) -> Tensor:
        self._vit.params = dict(zip(self._names, self.weights, strict=True))
        head = self._head.replaced(dict(zip(self._head.tensors(), self.head, strict=True)))
        return head.logits(self._vit.forward(images, Functional(self._vit, self._rest)))


# Many adapters


def banked(loader: Loader, task: TaskRecord, terms: Sequence[ResolvedTerm]) -> Exported:
    """Adapters of a task in one graph: each row of a run names its image, its slots and its alphas.

    Slot 0 of every lane stands for no adapter: the frozen backbone and the task's base head. Adapters that
    cannot be stacked are left out, and the document names them.

    Raises:
        Corrupt: A stored file is not what its digest says.
        Unsupported: None of them can be stacked, or they are too large for one ONNX file.
    """
    vit = loader.vit(task.spec.preprocess.image_size)
    loaded = [(term, loader.adapter(term)) for term in terms]
    stacked = [(term, adapter) for term, adapter in loaded if adapter.edits.form != NO_FORM]
    if not stacked:
        raise Unsupported(
            "no adapter can be stacked with others",
            field="bank",
            remedy="export each by itself; full, selective, VPT-Shallow and VQT have no slots",
        )
    lanes: dict[int, list[tuple[ResolvedTerm, Adapter]]] = {}
    for term, adapter in sorted(stacked, key=lambda pair: (not pair[1].edits.edits, pair[1].edits.form)):
        lanes.setdefault(adapter.edits.form, []).append((term, adapter))
    module = _Whole(
        vit, loader.base_head(task), [[adapter for _, adapter in lane] for lane in lanes.values()]
    )
    check_size(module)
    size, count = vit.arch.image_size, len(lanes)
    rows = torch.zeros(ROWS, dtype=torch.int64)
    arguments = (torch.zeros(IMAGES, 3, size, size), rows, rows.expand(count, -1), torch.ones(count, ROWS))
    sizes = {"images": {0: "images"}, "rows": {0: "rows"}, "slots": {1: "rows"}, "alphas": {1: "rows"}}
    graph = record(
        module, arguments, ["images", "rows", "slots", "alphas"], ["logits"], sizes | {"logits": {0: "rows"}}
    )
    document = _about(loader, task) | {
        "lanes": [_lane([term for term, _ in lane]) for lane in lanes.values()],
        "left_out": [term.full_name for term, adapter in loaded if adapter.edits.form == NO_FORM],
        "inputs": {
            "images": _images("images", vit),
            "rows": _tensor("int64", "rows") | {"meaning": "each row's image"},
            "slots": _tensor("int64", count, "rows") | {"meaning": "each row's slot in each lane; 0 is none"},
            "alphas": _tensor("float32", count, "rows") | {"meaning": "how much of it counts; 1 as trained"},
        },
        "outputs": {"logits": _tensor("float32", "rows", len(task.spec.classes))},
    }
    return Exported(graph=graph, document=document)


def _lane(terms: Sequence[ResolvedTerm]) -> list[dict[str, Any]]:
    """A lane's slots, in the document."""
    return [
        {"slot": slot, "adapter": term.full_name, "method": term.method, "digest": term.digest}
        for slot, term in enumerate(terms, start=1)
    ]


class _Whole(nn.Module):
    """Images, rows, slots and alphas -> [B, C]: a lane for each form, those without edits last."""

    def __init__(self, vit: FrozenViT, base: Head, lanes: Sequence[Sequence[Adapter]]) -> None:
        super().__init__()
        forms = [lane[0].edits for lane in lanes if lane[0].edits.edits]
        mixture = Mixture.of({f.form: 1 for f in forms}, {f.form: f for f in forms})
        self._graph, self._base = Banked(vit, mixture), base
        self.weights = _frozen(vit.params.values())
        self.banks = _frozen(
            _with_none([adapter.edits.flat for adapter in lane]) for lane in lanes[: len(forms)]
        )
        start = flat(base)
        self.base = _frozen([start])
        self.heads = _frozen(_with_none([flat(adapter.head) - start for adapter in lane]) for lane in lanes)

    def forward(self, images: Tensor, rows: Tensor, slots: Tensor, alphas: Tensor) -> Tensor:
        features = self._graph(images, rows, (slots, alphas), list(self.banks), list(self.weights))
        changes = [
            alphas[lane].unsqueeze(1) * bank.index_select(0, slots[lane])
            for lane, bank in enumerate(self.heads)
        ]
        return logits(self._base, sum(changes, start=self.base[0]), features)


def _with_none(vectors: Sequence[Tensor]) -> Tensor:
    """Slots of vectors; slot 0 is zero."""
    return torch.stack([torch.zeros_like(vectors[0]), *vectors])


def flat(head: Head) -> Tensor:
    """[P]."""
    return torch.cat([tensor.flatten() for tensor in head.tensors().values()])


def logits(like: Head, heads: Tensor, features: Tensor) -> Tensor:
    """Logits [B, C] of features [B, D], each row by its own head of `heads` [B, P]."""
    shapes = {name: tuple(tensor.shape) for name, tensor in like.tensors().items()}
    parts = heads.split([prod(shape) for shape in shapes.values()], dim=1)
    tensors = {name: part.view(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    x = features.unsqueeze(1)
    if isinstance(like, ClipHead):
        x = F.normalize(x @ tensors["head.projection"], dim=-1)
    return torch.baddbmm(
        tensors["head.bias"].unsqueeze(1), x, tensors["head.weight"].transpose(1, 2)
    ).squeeze(1)


# Shared by both


def _frozen(tensors: Any) -> nn.ParameterList:
    return nn.ParameterList([nn.Parameter(tensor.clone(), requires_grad=False) for tensor in tensors])


def check_size(module: nn.Module) -> None:
    size = sum(parameter.nbytes for parameter in module.parameters())
    if size > _MOST_BYTES:
        raise Unsupported(
            f"its weights take {size / 2**30:.1f} GiB, and an ONNX file holds at most 2",
            field="out",
            remedy="serve it with corolla serve --backend onnx, which reads them from the store",
        )


def _about(loader: Loader, task: TaskRecord) -> dict[str, Any]:
    return {
        "corolla_onnx": VERSION,
        "task": task.spec.name,
        "classes": list(task.spec.classes),
        "preprocess": task.spec.preprocess.model_dump(mode="json"),
        "backbone": {"architecture": loader.record.config.architecture, "digest": loader.record.digest},
    }


def _images(count: str, vit: FrozenViT) -> Mapping[str, Any]:
    size = vit.arch.image_size
    return _tensor("float32", count, 3, size, size) | {
        "meaning": "preprocessed: resized, cropped and normalised"
    }


def _tensor(dtype: str, *shape: int | str) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape)}
