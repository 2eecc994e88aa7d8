"""A batch of rows, each an image under its own model in weight space, in as few forwards as can be.

Rows of all methods, ranks and alphas share one forward. Only rows whose model replaces parameters
(`Dense` edits: full and selective tuning) or carries tokens along (`Tokens`: VPT-Shallow) run as groups of
their own. An image goes through the patch convolution once, and through the blocks before its rows' first
edits once, however many rows it has.

Shapes: U images, B rows, D width, C classes of a row's task.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from math import ceil, inf

import torch
from torch import Tensor

from petl_vit.adapter import Adapter
from petl_vit.edit_set import NO_FORM, EditSet, stacked
from petl_vit.edits import Affine, Alpha, Dense, LowRank, NormDelta, fold
from petl_vit.errors import InvalidInput
from petl_vit.executors import Lane, Sliced
from petl_vit.heads import Head, interpolate
from petl_vit.vit import FrozenViT, Params

_CPU_ACTIVATION_BYTES = 24 * 2**20
"""The largest activation of one forward on a CPU. The C library maps larger ones anew each time, and writing
to fresh pages then costs a fifth of the forward."""

_PATCH_CONVOLUTION = ("patch_embed.proj.weight", "patch_embed.proj.bias")


@dataclass(frozen=True, kw_only=True)
class Term:
    """One adapter in a weight-space sum."""

    adapter: Adapter
    alpha: float = 1.0


class Model:
    """theta_0 + sum_i alpha_i (theta_i - theta_0): WiSE is one term, a soup several.

    Raises:
        InvalidInput: The terms have different base heads, or a negative alpha weighs prompts.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = tuple(terms)
        first = self.terms[0].adapter
        for term in self.terms:
            if term.adapter.task_digest != first.task_digest:
                raise InvalidInput(
                    "the terms of a weight-space sum belong to different tasks or base heads",
                    field="route",
                    remedy="sum adapters of one task, or make them members of an ensemble",
                )
            if term.alpha < 0 and term.adapter.edits.prompts:
                raise InvalidInput(
                    f"alpha {term.alpha} is negative, and prompts have no negative weight",
                    field="alpha",
                    remedy="use an alpha of at least 0 with prompt methods",
                )
        self.digests = tuple(term.adapter.digest for term in self.terms)
        self.key = tuple((term.adapter.digest, term.alpha) for term in self.terms)
        self.edited = tuple(term for term in self.terms if term.alpha != 0)  # at 0 the backbone is as it was
        sets = [term.adapter.edits for term in self.edited]
        self.dense = any(edits.dense for edits in sets)
        self.tokens = sum(edits.extra_tokens for edits in sets)
        self.first_block = min((edits.first_block for edits in sets), default=inf)
        forms = tuple(edits.form for edits in sets)
        alone = tuple(term.adapter.digest for term in self.edited) if NO_FORM in forms else ()
        self.form = (forms, alone)
        prompted = any(edits.prefixes for edits in sets)
        self.order = (self.first_block, prompted, self.form, self.digests)

    @cached_property
    def head(self) -> Head:
        """H_0 + sum alpha_i (H_i - H_0), tensor by tensor; made when the first rows ask for it."""
        base = self.terms[0].adapter.base_head
        return interpolate(base, [(term.adapter.head, term.alpha) for term in self.terms])

    @cached_property
    def unfoldable(self) -> tuple[tuple[EditSet, float], ...]:
        """The edits that stay beside the parameters of a dense model, with their alphas."""
        return tuple((_unfoldable(term.adapter.edits), term.alpha) for term in self.edited)

    def logits(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, C]."""
        return self.head.logits(features)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image under one model."""

    image: int
    model: Model


class Batch:
    """Runs rows over one backbone.

    Args:
        vit: The backbone at its image size.
        folded_models: How many interpolated parameter sets of `Dense` models to keep.
    """

    def __init__(self, vit: FrozenViT, *, folded_models: int = 2) -> None:
        self.vit = vit
        self._folded: OrderedDict[tuple[tuple[str, float], ...], dict[str, Tensor]] = OrderedDict()
        self._folded_models = folded_models

    @torch.inference_mode()
    def logits(self, images: Tensor, rows: Sequence[Row]) -> list[Tensor]:
        """The logits of every row, in the rows' order.

        Args:
            images: [U, 3, S, S], preprocessed, on the backbone's device in its dtype.
            rows: At least one.

        Returns:
            One [C] for each row; C may differ between rows.
        """
        answers: list[Tensor | None] = [None] * len(rows)
        patches = self.vit.patches(images, self.vit.params)
        by_group = sorted(range(len(rows)), key=lambda i: (*_group(rows[i].model), rows[i].model.order))
        for _, members in groupby(by_group, key=lambda i: _group(rows[i].model)):
            for part in self._parts(rows, list(members)):
                features = self._features(images, patches, [rows[i] for i in part])
                for i, row_logits in zip(part, _logits(features, [rows[i].model for i in part]), strict=True):
                    answers[i] = row_logits
        return [answer for answer in answers if answer is not None]

    def _parts(self, rows: Sequence[Row], members: list[int]) -> list[list[int]]:
        """Sorted rows as runs of about equal length, none too large for one forward."""
        most = self._rows_at_once()
        count = ceil(len(members) / most)
        size = ceil(len(members) / count)
        return [members[start : start + size] for start in range(0, len(members), size)]

    def _rows_at_once(self) -> int:
        arch = self.vit.arch
        if self.vit.device.type != "cpu":
            return 1 << 30
        tokens = arch.grid**2 + arch.prefix_tokens
        row = tokens * max(arch.hidden, 3 * arch.width) * self.vit.dtype.itemsize
        return max(1, _CPU_ACTIVATION_BYTES // row)

    def _features(self, images: Tensor, patches: Tensor, rows: list[Row]) -> Tensor:
        """[B, D] of rows that are sorted by model and share their parameters."""
        model = rows[0].model
        if model.dense:
            params = self._folded_params(model)
            lanes = [
                _lane(images, slice(0, len(rows)), e, [alpha] * len(rows)) for e, alpha in model.unfoldable
            ]
            if any(params.get(name) is not self.vit.params.get(name) for name in _PATCH_CONVOLUTION):
                patches = self.vit.patches(images, params)
        else:
            params, lanes = self.vit.params, _lanes(images, rows)
        forks = _forks(rows, self.vit.arch.depth)
        indices = {block: torch.tensor(index, device=images.device) for block, index in forks.items()}
        return self.vit.features(patches, Sliced(self.vit, lanes, params), indices)

    def _folded_params(self, model: Model) -> Params:
        """The parameters of a model with dense edits; the most recent few are kept."""
        if model.key not in self._folded:
            terms = [
                (edit, term.alpha)
                for term in model.edited
                for edit in term.adapter.edits.edits
                if isinstance(edit, Affine | NormDelta | LowRank | Dense)
            ]
            self._folded[model.key] = fold(self.vit.params, terms)
            while len(self._folded) > self._folded_models:
                self._folded.popitem(last=False)
        self._folded.move_to_end(model.key)
        return self._folded[model.key]


def _group(model: Model) -> tuple[bool, int, tuple[tuple[str, float], ...]]:
    """Rows of equal groups share parameters and sequence length, and so a forward."""
    return model.dense, model.tokens, model.key if model.dense else ()


def _unfoldable(edits: EditSet) -> EditSet:
    return EditSet([e for e in edits.edits if not isinstance(e, Affine | NormDelta | LowRank | Dense)])


def _logits(features: Tensor, models: list[Model]) -> list[Tensor]:
    """[B, D] -> [C] of each row; equal models are neighbours and share a product."""
    found: list[Tensor] = []
    for _, same in groupby(models, key=lambda model: model.key):
        group = list(same)
        found.extend(group[0].logits(features[len(found) : len(found) + len(group)]))
    return found


def _forks(rows: list[Row], depth: int) -> dict[int, list[int]]:
    """Where rows part, as `FrozenViT.features` takes it: rows of one image share it until they are edited.

    Args:
        rows: Sorted by their first edited block.
    """
    starts = [min(row.model.first_block, depth) for row in rows]
    stream: list[
        int | tuple[int]
    ] = []  # a row that has begun, by number; an image that rows wait for, (image,)
    forks: dict[int, list[int]] = {}
    for block in sorted({0, *starts}):
        begun = [i for i, start in enumerate(starts) if start <= block]
        waited = dict.fromkeys(row.image for row in rows[len(begun) :])
        following: list[int | tuple[int]] = [*begun, *((image,) for image in waited)]
        where = {key: position for position, key in enumerate(stream)}
        if block == 0:
            index = [rows[key].image if isinstance(key, int) else key[0] for key in following]
        else:
            index = [
                where[key] if key in where or not isinstance(key, int) else where[rows[key].image,]
                for key in following
            ]
        if block == 0 or index != list(range(len(stream))):
            forks[int(block)] = index
        stream = following
    return forks


def _lanes(images: Tensor, rows: list[Row]) -> list[Lane]:
    """A lane for each run of rows whose adapters stack, and each of their terms."""
    lanes, start = [], 0
    for _, run in groupby(rows, key=lambda row: row.model.form):
        models = [row.model for row in run]
        where = slice(start, start + len(models))
        start += len(models)
        for position in range(len(models[0].edited)):
            terms = [model.edited[position] for model in models]
            sets = [term.adapter.edits for term in terms]
            edits = sets[0] if len({term.adapter.digest for term in terms}) == 1 else stacked(sets)
            lanes.append(_lane(images, where, edits, [term.alpha for term in terms]))
    return lanes


def _lane(images: Tensor, rows: slice, edits: EditSet, alphas: list[float]) -> Lane:
    return Lane(rows=rows, edits=edits, alpha=_alpha(images, alphas))


def _alpha(images: Tensor, alphas: list[float]) -> Alpha:
    if all(alpha == 1 for alpha in alphas):
        return None
    return images.new_tensor(alphas).view(-1, 1, 1)
