"""A batch of rows, each an image under its own model in weight space, in as few forwards as can be.

Rows of all methods, ranks and alphas share one forward. Only rows whose model replaces parameters
(`Dense` edits: full and selective tuning) or carries tokens along (`Tokens`: VPT-Shallow) run as groups of
their own.

Shapes: U images, B rows, C classes of a row's task.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from petl_vit.adapter import Adapter
from petl_vit.edits import Affine, Alpha, Dense, LowRank, NormDelta, fold
from petl_vit.errors import InvalidInput
from petl_vit.executors import EditSet, Lane, Sliced
from petl_vit.heads import Head, interpolate
from petl_vit.vit import FrozenViT, Params


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
        self.dense = any(term.adapter.edits.dense for term in self.terms)
        self.digests = tuple(term.adapter.digest for term in self.terms)
        self.key = tuple((term.adapter.digest, term.alpha) for term in self.terms)
        self.tokens = sum(term.adapter.edits.extra_tokens for term in self.terms)
        self.order = (any(term.adapter.edits.prefixes for term in self.terms), self.digests)

    @cached_property
    def head(self) -> Head:
        """H_0 + sum alpha_i (H_i - H_0), tensor by tensor; made when the first rows ask for it."""
        base = self.terms[0].adapter.base_head
        return interpolate(base, [(term.adapter.head, term.alpha) for term in self.terms])

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
        by_group = sorted(range(len(rows)), key=lambda i: (*_group(rows[i].model), rows[i].model.order))
        for (dense, _, _), members in groupby(by_group, key=lambda i: _group(rows[i].model)):
            order = list(members)
            features = self._features(images, [rows[i] for i in order], dense)
            start = 0
            for _, same in groupby(order, key=lambda i: rows[i].model.key):
                group = list(same)
                logits = rows[group[0]].model.logits(features[start : start + len(group)])
                start += len(group)
                for i, row_logits in zip(group, logits.unbind(0), strict=True):
                    answers[i] = row_logits
        return [answer for answer in answers if answer is not None]

    def _features(self, images: Tensor, rows: list[Row], dense: bool) -> Tensor:
        """[B, D] of rows that are sorted by model and share their parameters."""
        if dense:
            params, lanes = self._folded_params(rows[0].model), []
            edits = [(_unfoldable(t.adapter.edits), t.alpha) for t in rows[0].model.terms]
            everything = slice(0, len(rows))
            for edit_set, alpha in edits:
                alphas = None if alpha == 1 else images.new_full((len(rows), 1, 1), alpha)
                lanes.append(Lane(rows=everything, edits=edit_set, alpha=alphas))
        else:
            params, lanes = self.vit.params, _lanes(images, rows)
        index = torch.tensor([row.image for row in rows], device=images.device)
        identity = len(rows) == len(images) and [row.image for row in rows] == list(range(len(rows)))
        return self.vit.forward(images, Sliced(self.vit, lanes, params), None if identity else index)

    def _folded_params(self, model: Model) -> Params:
        """The parameters of a model with dense edits; the most recent few are kept."""
        if model.key not in self._folded:
            terms = [
                (edit, term.alpha)
                for term in model.terms
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


def _lanes(images: Tensor, rows: list[Row]) -> list[Lane]:
    """A lane for each run of rows with the same adapters and each of their terms."""
    lanes, start = [], 0
    for _, run in groupby(rows, key=lambda row: row.model.digests):
        models = [row.model for row in run]
        where = slice(start, start + len(models))
        start += len(models)
        for position, term in enumerate(models[0].terms):
            alphas = [model.terms[position].alpha for model in models]
            lanes.append(Lane(rows=where, edits=term.adapter.edits, alpha=_alpha(images, alphas)))
    return lanes


def _alpha(images: Tensor, alphas: list[float]) -> Alpha:
    if all(alpha == 1 for alpha in alphas):
        return None
    return images.new_tensor(alphas).view(-1, 1, 1)
