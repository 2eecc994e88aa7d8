"""Folding: one model in weight space as a plain timm checkpoint that needs no part of Corolla.

Knows which models are plain weights: sums of edits that fold, with a linear head. The file holds the
backbone's parameters under timm's names at the task's image size, `head.weight`, `head.bias`, and a header
that explains it. Biases of queries, keys and values that a backbone lacks (DINOv3) are an option of timm's.
An epsilon of LayerNorms that is not timm's is in the header by itself, as timm has no option for it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import safetensors.torch
import torch
from torch import Tensor

from model_store.format.tensors import not_finite
from model_store.resolution.loading import Loader
from model_store.resolution.versions import Member
from model_store.routes.alpha import times
from petl_vit.adapter import Adapter
from petl_vit.architecture import Architecture, describe
from petl_vit.backbone import CLASS_AND_MEAN, NORM_EPS, Options
from petl_vit.batch import Model
from petl_vit.edits import Foldable, fold
from petl_vit.errors import InvalidInput, Unsupported
from petl_vit.heads import LinearHead
from petl_vit.rotary import TABLES
from petl_vit.timm_names import of_timm
from petl_vit.vit import FrozenViT

_FURTHER: tuple[Options, ...] = ({}, {"qkv_bias": True}, {"qkv_bias": True, "attn_type": "rope"})
"""Options of timm's model, tried in order: the backbone's alone, and such that give it biases it lacks."""

NAME = "corolla"
VERSION = "1"


@dataclass(frozen=True, kw_only=True)
class Folded:
    """Plain weights and the text that explains them.

    Attributes:
        route: The model, with the versions that were folded.
        tensors: On the CPU, float32, under timm's names.
        header: What the file says of itself.
    """

    route: str
    tensors: dict[str, Tensor]
    header: dict[str, str]

    def encode(self) -> bytes:
        """The file. The header's entries are in no particular order."""
        return safetensors.torch.save(self.tensors, metadata=self.header)


def folded(loader: Loader, member: Member, *, alpha: float = 1.0) -> Folded:
    """One model as plain weights.

    Args:
        loader: Of the member's backbone, on the CPU in float32.
        member: The model.
        alpha: Multiplies every term's alpha: WiSE of the whole sum.

    Raises:
        Unsupported: A method does not fold, a head is not linear, or the frozen model has no parameter
            for a change; names it and the remedy.
        Corrupt: A stored file is not what its digest says.
    """
    member = _at(member, alpha)
    model = loader.model(member)
    _check_methods(member, model)
    vit = loader.vit(member.task.spec.preprocess.image_size)
    head = model.head
    if not isinstance(head, LinearHead):
        raise Unsupported(
            f"task {member.task.spec.name!r} has a head of the {head.title} kind, timm's is one linear layer",
            field="route",
            remedy="serve it with corolla, or train the adapter under a task with a linear head",
        )
    weights, options = _in_timm(vit, _weights(vit, model))
    tensors = {name: t.detach().float().cpu().contiguous() for name, t in weights.items()}
    tensors |= {name: t.detach().float().cpu().contiguous() for name, t in head.tensors().items()}
    _check_finite(tensors)
    return Folded(route=str(member), tensors=tensors, header=_header(loader, member, options))


def _weights(vit: FrozenViT, model: Model) -> dict[str, Tensor]:
    terms = [
        (edit, term.alpha_of(edit))
        for term in model.edited
        for edit in term.adapter.edits.edits
        if isinstance(edit, Foldable)
    ]
    return fold(vit.params, terms)


def _in_timm(vit: FrozenViT, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], Options]:
    """The weights under timm's names, and the options of timm's model that has them all.

    Raises:
        Unsupported: timm has no such model; says what it lacks.
    """
    if vit.arch.pool == CLASS_AND_MEAN:
        raise Unsupported(
            "the class token and the mean of the patches are pooled together, which timm cannot",
            field="route",
            remedy="serve it with corolla, or use --format archive or corolla export onnx",
        )
    needed = sorted(name for name in weights.keys() - vit.arch.shapes.keys() - TABLES if weights[name].any())
    for more in _FURTHER:
        arch = _with(vit, more)
        if arch is None or not set(needed) <= arch.shapes.keys() or not _biases_fit(weights, arch):
            continue
        found = {n: weights.get(n, torch.zeros(shape)) for n, shape in arch.shapes.items()}
        return of_timm(found, arch.layouts), vit.config.timm_options | more
    raise Unsupported(
        f"the model adds {(needed or ['a bias of keys'])[0]}, and {vit.arch.name} has no such parameter",
        field="route",
        remedy="serve it with corolla, or use a method that leaves this site alone, such as lora",
    )


def _with(vit: FrozenViT, options: Options) -> Architecture | None:
    """The backbone's architecture with further options; None where timm has no such model."""
    if not options:
        return vit.arch
    config = vit.config.model_copy(update={"options": vit.config.options | options})
    try:
        return describe(config).at(vit.arch.image_size)
    except Unsupported:
        return None


def _biases_fit(weights: Mapping[str, Tensor], arch: Architecture) -> bool:
    """Whether keys have a bias only where timm's module has one."""
    biases = (tensor for name, tensor in weights.items() if name.endswith(".attn.qkv.bias"))
    return arch.key_bias or not any(bool(bias.chunk(3)[1].any()) for bias in biases)


def _check_methods(member: Member, model: Model) -> None:
    stuck = [
        term for term, loaded in zip(member.terms, model.terms, strict=True) if not _folds(loaded.adapter)
    ]
    if stuck:
        names = ", ".join(f"{term.label} ({term.method})" for term in stuck)
        raise Unsupported(
            f"{names} cannot become plain weights: branches and prompts are not weights of a ViT",
            field="route",
            remedy="serve it with corolla, or export it with --format archive; "
            "`corolla methods` lists the methods that fold",
        )


def _folds(adapter: Adapter) -> bool:
    return all(isinstance(edit, Foldable) for edit in adapter.edits.edits)


def _check_finite(tensors: dict[str, Tensor]) -> None:
    bad = not_finite(tensors)
    if bad is not None:
        raise InvalidInput(
            f"{bad} is no longer finite at this alpha", field="alpha", remedy="choose one inside [0, 1]"
        )


def _at(member: Member, alpha: float) -> Member:
    terms = tuple(replace(term, alpha=times(term.alpha, alpha)) for term in member.terms)
    return Member(weight=1.0, terms=terms)


def _header(loader: Loader, member: Member, options: Options) -> dict[str, str]:
    spec, config = member.task.spec, loader.record.config
    values = {
        "route": str(member),
        "task": spec.name,
        "classes": list(spec.classes),
        "image_size": spec.preprocess.image_size,
        "resize": spec.preprocess.resize,
        "crop_ratio": spec.preprocess.crop_ratio,
        "mean": list(spec.preprocess.mean),
        "std": list(spec.preprocess.std),
        "architecture": config.architecture.partition(".")[0],
        "options": options,
        "backbone_digest": loader.record.digest,
        "task_digest": member.task.digest,
        "digests": {term.label: term.digest for term in member.terms},
        **({NORM_EPS: config.options[NORM_EPS]} if NORM_EPS in config.options else {}),
    }
    texts = {
        name: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for name, v in values.items()
    }
    return {"format": "pt", NAME: VERSION} | texts
