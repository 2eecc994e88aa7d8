"""A batch of rows, each an image under its own model in weight space, in as few forwards as possible.

Rows of all methods, ranks and alphas share one forward. A model that replaces parameters (`Dense` edits:
full and selective tuning) has separate products in it, from the first replaced parameter on. Only rows that
carry tokens along (`Tokens`: VPT-Shallow) need a forward for each number of tokens. An image passes the patch
convolution and the blocks before its rows' first edits once, however many rows it has.

Shapes: U images, B rows, D width, C classes of a row's task.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from math import ceil, inf

import torch
from torch import Tensor

from petl_vit.adapter import Adapter
from petl_vit.alphas import Alphas, added, alphas_of, at, not_by_block
from petl_vit.edit_set import NO_FORM, EditSet, block_of
from petl_vit.edits import Edit, Foldable, fold
from petl_vit.errors import InvalidInput
from petl_vit.executors.lanes import Lane
from petl_vit.executors.sliced import Sliced
from petl_vit.heads import Head, interpolate
from petl_vit.products import Params
from petl_vit.slots import Slots
from petl_vit.vit import PATCH_CONVOLUTION, FrozenViT

_CPU_ACTIVATION_BYTES = 24 * 2**20
"""The largest activation of one forward on a CPU. The C library maps larger ones anew each time, and page
faults then cost a fifth of the forward."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """One adapter in a weight-space sum.

    Attributes:
        alpha: In the whole model, or of each block.
    """

    adapter: Adapter
    alpha: float | Sequence[float] = 1.0

    @cached_property
    def alphas(self) -> Alphas:
        """Its alpha, one for all blocks where they do not differ."""
        return alphas_of(self.alpha)

    @property
    def by_block(self) -> bool:
        """Whether its alpha differs between blocks."""
        return len(self.alphas) > 1

    @cached_property
    def absent(self) -> tuple[int, ...]:
        """The blocks in which its alpha is 0, where it differs by block."""
        return tuple(block for block, alpha in enumerate(self.alphas) if alpha == 0) if self.by_block else ()

    def alpha_of(self, edit: Edit) -> float:
        """The alpha of one of its edits: that of the edit's block."""
        return at(self.alphas, block_of(edit))

    @property
    def first_block(self) -> float:
        """The first block that it changes; infinite where it changes none."""
        edits = self.adapter.edits
        if not self.by_block:
            return edits.first_block
        return min((block for block in edits.blocks if at(self.alphas, block) != 0), default=inf)


class Model:
    """theta_0 + sum_i alpha_i (theta_i - theta_0): WiSE is one term, a soup several.

    Raises:
        InvalidInput: The terms have different base heads, a negative alpha weighs prompts, or an alpha
            differs by block for prompts or queries that pass through all of them.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = tuple(terms)
        each = _each_adapter_once(self.terms)
        _check(each)
        self.digests = tuple(term.adapter.digest for term in self.terms)
        self.key = tuple((term.adapter.digest, term.alphas) for term in each)
        self.edited = tuple(term for term in each if any(term.alphas))  # at 0 the backbone is unchanged
        self.by_block = any(term.by_block for term in self.edited)
        # Rows with equal stacks share edits.
        self.stack = tuple((term.adapter.digest, term.absent) for term in self.edited)
        sets = [term.adapter.edits for term in self.edited]
        self.dense = any(edits.dense for edits in sets)
        self.tokens = sum(edits.extra_tokens for edits in sets)
        self.first_block = min((term.first_block for term in self.edited), default=inf)
        forms = tuple((term.adapter.edits.form, term.absent) for term in self.edited)
        stacks = all(form != NO_FORM for form, _ in forms)
        alone = self.key if self.dense else () if stacks else self.stack
        self.form = (forms, alone)
        prompted = any(edits.prefixes for edits in sets)
        exact = (term.adapter.exact_on for term in self.terms)
        self.exact_on = next((vit for vit in exact if vit is not None), None)
        self.order = (self.tokens, self.first_block, self.dense, prompted, self.form)

    @cached_property
    def head(self) -> Head:
        """H_0 + sum alpha_i (H_i - H_0), tensor by tensor; computed for the first rows."""
        base = self.terms[0].adapter.base_head
        return interpolate(base, [(term.adapter.head, term.alphas[-1]) for term in self.terms])

    def logits(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, C]."""
        return self.head.logits(features)


def _each_adapter_once(terms: Sequence[Term]) -> tuple[Term, ...]:
    """The same sum with one term for each adapter, in order: alphas of one adapter add up."""
    each: dict[str, Term] = {}
    for term in terms:
        known = each.get(term.adapter.digest)
        summed = term if known is None else replace(term, alpha=added(known.alphas, term.alphas))
        each[term.adapter.digest] = summed
    return tuple(each.values())


def _check(terms: Sequence[Term]) -> None:
    first = terms[0].adapter
    for term in terms:
        edits = term.adapter.edits
        if term.adapter.task_digest != first.task_digest:
            raise InvalidInput(
                "the terms of a weight-space sum belong to different tasks or base heads",
                field="route",
                remedy="sum adapters of one task, or make them members of an ensemble",
            )
        if edits.prompts and min(term.alphas) < 0:
            raise InvalidInput(
                f"alpha {min(term.alphas):g} is negative, and prompts have no negative weight",
                field="alpha",
                remedy="use an alpha of at least 0 with prompt methods",
            )
        if term.by_block and (edits.tokens or edits.queries):
            raise not_by_block(f"an adapter of {term.adapter.method.title}")


class Features(Model):
    """A model whose answer is its pooled features, not classes."""

    def logits(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        return features


class Witness(Model):
    """A model whose answer is its pooled features, followed by the logits of its classes."""

    def logits(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, D + C]."""
        logits = self.head.logits(features)
        return torch.cat([features.to(logits.dtype), logits], dim=-1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image under one model."""

    image: int
    model: Model


class Batch:
    """Runs rows over one backbone.

    Args:
        vit: The backbone at its image size.
        slots: The adapters on the device; None for any number of them.
        folded_models: How many folded parameter sets of `Dense` models to keep.
    """

    def __init__(self, vit: FrozenViT, *, slots: Slots | None = None, folded_models: int = 2) -> None:
        self.vit = vit
        self._slots = Slots(vit.device) if slots is None else slots
        self._folded: OrderedDict[tuple[tuple[str, Alphas], ...], dict[str, Tensor]] = OrderedDict()
        self._folded_models = folded_models
        self._slots.on_drop(self._drop_folded)

    @torch.inference_mode()
    def logits(self, images: Tensor, rows: Sequence[Row]) -> list[Tensor]:
        """The logits of every row, in the rows' order.

        Args:
            images: [U, 3, S, S], preprocessed, on the backbone's device.
            rows: At least one.

        Returns:
            One [C] for each row, on the host; C may differ between rows.

        Raises:
            Overloaded: The rows have more adapters than there are slots.
        """
        with self._slots.running([term.adapter for row in rows for term in row.model.terms]):
            return self._logits(images, rows)

    def _logits(self, images: Tensor, rows: Sequence[Row]) -> list[Tensor]:
        logits: list[Tensor | None] = [None] * len(rows)
        patches = self.vit.patches(images, self.vit.params)
        in_order = sorted(range(len(rows)), key=lambda i: (rows[i].model.order, rows[i].model.stack))
        for _, group in groupby(in_order, key=lambda i: rows[i].model.tokens):
            equally_long = list(group)
            for where in self.parts(len(equally_long)):
                indices = equally_long[where]
                part = _adapters_together([rows[i].model for i in indices], indices)
                features = self._features(images, patches, [rows[i] for i in part])
                models = [rows[i].model for i in part]
                for i, row_logits in zip(part, logits_of(features, models), strict=True):
                    logits[i] = row_logits
        return [row_logits for row_logits in logits if row_logits is not None]

    def parts(self, rows: int) -> list[slice]:
        """Slices of sorted rows, of about equal length, each small enough for one forward."""
        count = ceil(rows / self._rows_at_once())
        size = ceil(rows / count)
        return [slice(start, start + size) for start in range(0, rows, size)]

    def _rows_at_once(self) -> int:
        arch = self.vit.arch
        if self.vit.device.type != "cpu":
            return 1 << 30
        tokens = arch.grid**2 + arch.prefix_tokens
        product, stream = self.vit.product_dtype.itemsize, self.vit.dtype.itemsize
        row = tokens * max(arch.fc1_width * product, 3 * arch.width * product, arch.width * stream)
        return max(1, _CPU_ACTIVATION_BYTES // row)

    def _features(self, images: Tensor, patches: Tensor, rows: list[Row]) -> Tensor:
        """[B, D] of rows that are sorted by model."""
        lanes = self._lanes(rows)
        patches, sources = self._replaced_patches(images, patches, rows, lanes)
        forks = _forks(rows, sources, self.vit.arch.depth)
        indices = {block: torch.tensor(index, device=images.device) for block, index in forks.items()}
        return self.vit.features(patches, Sliced(self.vit, lanes), indices)

    def _replaced_patches(
        self, images: Tensor, patches: Tensor, rows: list[Row], lanes: list[Lane]
    ) -> tuple[Tensor, list[int]]:
        """Adds the patches of rows whose model replaces the patch convolution.

        Returns:
            Patches [U + more, N, D], and the index among them of each row's.
        """
        all_patches, sources, count = [patches], [row.image for row in rows], len(patches)
        frozen = self.vit.params
        for lane in lanes:
            if lane.params is None or all(lane.params.get(n) is frozen.get(n) for n in PATCH_CONVOLUTION):
                continue
            replaced = self.vit.patches(images[sources[lane.rows]], lane.params)
            sources[lane.rows] = range(count, count + len(replaced))
            count += len(replaced)
            all_patches.append(replaced)
        return torch.cat(all_patches) if len(all_patches) > 1 else patches, sources

    def _lanes(self, rows: list[Row]) -> list[Lane]:
        """The rows' lanes, valid until the next call.

        Rows of one form whose adapters have equally many rows share a lane for each term.
        """
        self._slots.take_back()
        lanes, start = [], 0
        counts = Counter(row.model.stack for row in rows)
        for _, group in groupby(rows, key=lambda row: (row.model.form, counts[row.model.stack])):
            models = [row.model for row in group]
            where = slice(start, start + len(models))
            start += len(models)
            lanes += self._dense_lanes(where, models[0]) if models[0].dense else self._stacked(where, models)
        return lanes

    def _stacked(self, rows: slice, models: list[Model]) -> list[Lane]:
        """Lanes of rows under models of one form, each stack of adapters with equally many rows."""
        each = [next(same) for _, same in groupby(models, key=lambda model: model.stack)]
        lanes = []
        for position in range(len(models[0].edited)):
            adapters = [model.edited[position].adapter for model in each]
            lane = Lane(
                rows=rows,
                edits=self._slots.edits(adapters),
                adapters=len(adapters) if len({a.digest for a in adapters}) > 1 else 1,
            )
            lanes.append(self._weighed(lane, [model.edited[position].alphas for model in models]))
        return lanes

    def _dense_lanes(self, rows: slice, model: Model) -> list[Lane]:
        """Lanes of rows under one model that replaces parameters."""
        count = rows.stop - rows.start
        lanes = [
            self._weighed(
                Lane(rows=rows, edits=_unfoldable(self._slots.edits([term.adapter]))), [term.alphas] * count
            )
            for term in model.edited
        ]
        return [replace(lanes[0], params=self._folded_params(model)), *lanes[1:]]

    def _weighed(self, lane: Lane, alphas: Sequence[Alphas]) -> Lane:
        """The lane with the alphas of its rows, which are 0 in the same blocks."""
        depth = max(map(len, alphas))
        if depth > 1:
            assert depth == self.vit.arch.depth, "one alpha for each block"
            each = self._tensor([[at(of_row, block) for of_row in alphas] for block in range(depth)])
            active = [at(alphas[0], block) != 0 for block in range(depth)]
            present = (alpha if on else None for alpha, on in zip(each, active, strict=True))
            return replace(lane, by_block=tuple(present))
        if all(alpha == 1 for (alpha,) in alphas):
            return lane
        return replace(lane, alpha=self._tensor([[alpha for (alpha,) in alphas]])[0])

    def _tensor(self, alphas: list[list[float]]) -> Tensor:
        """[M, rows] -> [M, rows, 1, 1], where the backbone is."""
        return torch.tensor(alphas, dtype=self.vit.dtype, device=self.vit.device)[..., None, None]

    def _drop_folded(self, digest: str) -> None:
        """Drops the parameters that an adapter was folded into, when the adapter loses its slot."""
        for key in [key for key in list(self._folded) if any(digest == term for term, _ in key)]:
            self._folded.pop(key, None)

    def _folded_params(self, model: Model) -> Params:
        """The parameters of a model with dense edits; the most recent few are kept."""
        if model.key not in self._folded:
            terms = [
                (edit, term.alpha_of(edit))
                for term in model.edited
                for edit in self._slots.edits([term.adapter]).edits
                if isinstance(edit, Foldable) and term.alpha_of(edit) != 0
            ]
            self._folded[model.key] = fold(self.vit.params, terms)
            while len(self._folded) > self._folded_models:
                self._folded.popitem(last=False)
        self._folded.move_to_end(model.key)
        return self._folded[model.key]


def _adapters_together(models: Sequence[Model], indices: list[int]) -> list[int]:
    """Indices of sorted rows, rows of one form ordered by how many rows their adapters have.

    Adapters with equally many rows stack, each once however many rows it has.
    """
    counts = Counter(model.stack for model in models)
    pairs = sorted(
        zip(models, indices, strict=True),
        key=lambda pair: (pair[0].order, counts[pair[0].stack], pair[0].stack),
    )
    return [index for _, index in pairs]


def _unfoldable(edits: EditSet) -> EditSet:
    return EditSet([e for e in edits.edits if not isinstance(e, Foldable)])


def logits_of(features: Tensor, models: Sequence[Model]) -> list[Tensor]:
    """[B, D] -> [C] for each row, on the host; neighbouring rows of one model share a product."""
    features = features.cpu()
    logits: list[Tensor] = []
    for _, same in groupby(models, key=lambda model: (type(model), model.key)):
        group = list(same)
        logits.extend(group[0].logits(features[len(logits) : len(logits) + len(group)]))
    return logits


def _forks(rows: list[Row], sources: list[int], depth: int) -> dict[int, list[int]]:
    """The `forks` of `FrozenViT.features`: rows of one image share the stream until their first edits.

    Args:
        rows: Sorted by their first edited block.
        sources: The index of each row's patches.
    """
    starts = [min(row.model.first_block, depth) for row in rows]
    where = {source: source for source in sources}  # each shared image's place in the stream
    count, begun = max(sources) + 1, 0
    forks: dict[int, list[int]] = {}
    for block in sorted({0, *starts}):
        beginning = starts.count(block)
        index = [*range(begun), *(where[source] for source in sources[begun : begun + beginning])]
        begun += beginning
        shared = dict.fromkeys(sources[begun:])
        index += [where[source] for source in shared]
        if block == 0 or index != list(range(count)):
            forks[int(block)] = index
        where = {source: begun + position for position, source in enumerate(shared)}
        count = len(index)
    return forks
