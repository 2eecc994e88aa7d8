"""The backend on ONNX Runtime: rows of all adapters and methods in one run of a recorded forward.

The backbone and the banks stay in PyTorch's tensors and are bound to the inputs of sessions; so all sessions
share them, and a new adapter of a known form needs no new graph. A new combination of forms waits for its
graph, a second or two for a ViT-S. Rows with at most one edit set each, all of one form, run in a graph of
that form; all others run in one graph that grows. So there are at most two more graphs than forms.

Adapters that replace parameters or add tokens or queries (full, selective, VPT-Shallow, VQT) cannot be
stacked with others: their rows run in PyTorch, on the same backbone and device. So do rows whose alpha
differs by block.
"""

import logging
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from petl_vit.batch import Model, Row, Term, logits_of
from petl_vit.edit_set import NO_FORM, EditSet
from petl_vit.slots import Slots
from petl_vit.vit import FrozenViT
from serving.engine.backend import TorchBackend, VitOf
from serving.onnx.graph import Mixture
from serving.onnx.session import Place, Session, runtime

_log = logging.getLogger(__name__)


class OnnxBackend:
    """Computes every batch of rows in one run, in fp32, on the backbone's device.

    Args:
        vit_of: The backbone at an image size.
        slots: Not aliased, so that adapters of one form share one bank.
        threads: Threads of a run on a CPU; None is as many as PyTorch uses.

    Raises:
        CorollaError: ONNX Runtime is not installed.
    """

    def __init__(self, vit_of: VitOf, slots: Slots, *, threads: int | None = None) -> None:
        runtime()
        self._vit_of, self._slots, self._threads = vit_of, slots, threads
        self._torch = TorchBackend(vit_of, slots)
        self._sizes: dict[int, Sessions] = {}

    def warm(self, size: int) -> None:
        images, rows = torch.zeros(1, 3, size, size), torch.zeros(1, dtype=torch.int64)
        self.of_size(size).session(Counter(), {}, ()).features(images, rows, [[]], {})

    @torch.inference_mode()
    def logits(self, images: Sequence[Tensor], rows: Sequence[Row]) -> list[Tensor]:
        unstacked = [i for i, row in enumerate(rows) if _is_unstacked(row.model)]
        stacked = [i for i, row in enumerate(rows) if not _is_unstacked(row.model)]
        logits: dict[int, Tensor] = {}
        for run, indices in ((self._torch.logits, unstacked), (self._run, stacked)):
            if indices:
                logits |= zip(indices, run(images, [rows[i] for i in indices]), strict=True)
        return [logits[i] for i in range(len(rows))]

    def _run(self, images: Sequence[Tensor], rows: Sequence[Row]) -> list[Tensor]:
        """The logits of rows whose adapters can be stacked."""
        terms = [[t for t in row.model.edited if t.adapter.edits.edits] for row in rows]
        forms = {t.adapter.edits.form: t.adapter.edits for row_terms in terms for t in row_terms}
        needed: Counter[int] = Counter()
        for row_terms in terms:
            needed |= Counter(t.adapter.edits.form for t in row_terms)
        index = torch.tensor([row.image for row in rows])
        with self._slots.running([term.adapter for row in rows for term in row.model.terms]):
            session = self.of_size(images[0].shape[-1]).session(needed, forms, self._slots.forms)
            places, banks = self._places(terms)
            features = session.features(torch.stack(list(images)), index, places, banks)
        return logits_of(features, [row.model for row in rows])

    def of_size(self, size: int) -> "Sessions":
        """The sessions that answer images of so many pixels a side."""
        if size not in self._sizes:
            self._sizes[size] = Sessions(self._vit_of(size), self._threads)
        return self._sizes[size]

    def _places(self, terms: Sequence[Sequence[Term]]) -> tuple[list[list[Place]], dict[int, Tensor]]:
        """The places of each row's edits, and their banks by form."""
        banks: dict[int, Tensor] = {}
        places: list[list[Place]] = []
        for row_terms in terms:
            places.append([])
            for term in row_terms:
                form = term.adapter.edits.form
                banks[form], slot = self._slots.place(term.adapter)
                places[-1].append(Place(form=form, slot=slot, alpha=term.alphas[0]))
        return places, banks


class Sessions:
    """The sessions of one image size."""

    def __init__(self, vit: FrozenViT, threads: int | None) -> None:
        self._vit, self._threads = vit, threads
        self._single: dict[int, Session] = {}
        self._mixed: Session | None = None

    def session(self, needed: Counter[int], forms: Mapping[int, EditSet], used: Collection[int]) -> Session:
        """A session with at least the needed number of lanes of each form, new where none has them.

        Args:
            needed, forms: By the forms' numbers.
            used: Forms in use; a new session replaces those of other forms.
        """
        if needed.total() <= 1:
            key = next(iter(needed), NO_FORM)
            if key not in self._single:
                self._single = {form: single for form, single in self._single.items() if form in used}
                self._single[key] = self._new(needed, forms)
            return self._single[key]
        mixture = Mixture.of({}, {}) if self._mixed is None else self._mixed.mixture
        if not needed <= mixture.counts:
            counts = Counter({form: count for form, count in mixture.counts.items() if form in used})
            known = {form.form: form for form in mixture.forms}
            self._mixed = self._new(counts | needed, known | dict(forms))
        assert self._mixed is not None
        return self._mixed

    def _new(self, counts: Mapping[int, int], forms: Mapping[int, EditSet]) -> Session:
        started = time.monotonic()
        session = Session(self._vit, Mixture.of(counts, forms), threads=self._threads)
        seconds = time.monotonic() - started
        _log.info("made a graph of %d lanes in %.1f s", len(session.mixture.lanes), seconds)
        return session


def _is_unstacked(model: Model) -> bool:
    """Whether an adapter of the model cannot be stacked with others, or has no one alpha."""
    return model.by_block or any(term.adapter.edits.form == NO_FORM for term in model.edited)
