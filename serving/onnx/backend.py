"""ONNX Runtime as what computes: rows of all adapters and methods in one run of a recorded forward.

The backbone and the banks stay where they are, in PyTorch's tensors, and are bound to the inputs of
sessions; so all sessions share them, and a new adapter of a known form is data alone. Rows of forms that
were not met together before wait for their graph, a second or two for a ViT-S. Where no row has more than
one edit set, and all are of one form, they run in a graph of that form; all others in one graph that grows.
So there are at most two more graphs than forms.

Adapters that replace parameters or carry tokens or queries along (full, selective, VPT-Shallow, VQT) stack
with nothing: their rows run in PyTorch, on the same backbone and device.
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
from serving.onnx.session import Placed, Session, runtime

_log = logging.getLogger(__name__)


class OnnxBackend:
    """Every batch of rows in one run, in fp32, where the backbone is.

    Args:
        vit_of: The backbone at an image size.
        slots: Not aliased, so that adapters of one form stand in one bank.
        threads: Of a run on a CPU; None means all cores.

    Raises:
        CorollaError: ONNX Runtime is not installed.
    """

    def __init__(self, vit_of: VitOf, slots: Slots, *, threads: int | None = None) -> None:
        runtime()
        self._vit_of, self._slots, self._threads = vit_of, slots, threads
        self._torch = TorchBackend(vit_of, slots)
        self._sizes: dict[int, _Size] = {}

    def warm(self, size: int) -> None:
        images, rows = torch.zeros(1, 3, size, size), torch.zeros(1, dtype=torch.int64)
        self._size(size).session(Counter(), {}, ()).features(images, rows, [[]], {})

    @torch.inference_mode()
    def logits(self, images: Sequence[Tensor], rows: Sequence[Row]) -> list[Tensor]:
        loose = [i for i, row in enumerate(rows) if _is_loose(row.model)]
        stacking = [i for i, row in enumerate(rows) if not _is_loose(row.model)]
        answers: dict[int, Tensor] = {}
        for run, members in ((self._torch.logits, loose), (self._run, stacking)):
            if members:
                answers |= zip(members, run(images, [rows[i] for i in members]), strict=True)
        return [answers[i] for i in range(len(rows))]

    def _run(self, images: Sequence[Tensor], rows: Sequence[Row]) -> list[Tensor]:
        """The logits of rows whose edits stack."""
        terms = [[t for t in row.model.edited if t.adapter.edits.edits] for row in rows]
        forms = {t.adapter.edits.form: t.adapter.edits for own in terms for t in own}
        needed: Counter[int] = Counter()
        for own in terms:
            needed |= Counter(t.adapter.edits.form for t in own)
        index = torch.tensor([row.image for row in rows])
        with self._slots.running([term.adapter for row in rows for term in row.model.terms]):
            session = self._size(images[0].shape[-1]).session(needed, forms, self._slots.forms)
            chosen, banks = self._placed(terms)
            features = session.features(torch.stack(list(images)), index, chosen, banks)
        return logits_of(features, [row.model for row in rows])

    def _size(self, size: int) -> "_Size":
        if size not in self._sizes:
            self._sizes[size] = _Size(self._vit_of(size), self._threads)
        return self._sizes[size]

    def _placed(self, terms: Sequence[Sequence[Term]]) -> tuple[list[list[Placed]], dict[int, Tensor]]:
        """Where the edits of each row are, and the banks that they are in."""
        banks: dict[int, Tensor] = {}
        chosen: list[list[Placed]] = []
        for own in terms:
            chosen.append([])
            for term in own:
                form = term.adapter.edits.form
                banks[form], slot = self._slots.place(term.adapter)
                chosen[-1].append(Placed(form=form, slot=slot, alpha=term.alpha))
        return chosen, banks


class _Size:
    """The sessions of one image size."""

    def __init__(self, vit: FrozenViT, threads: int | None) -> None:
        self._vit, self._threads = vit, threads
        self._alone: dict[int, Session] = {}
        self._mixed: Session | None = None

    def session(self, needed: Counter[int], forms: Mapping[int, EditSet], used: Collection[int]) -> Session:
        """A session with so many lanes of each form, made where there is none yet.

        Args:
            needed, forms: By the forms' numbers.
            used: Forms in use; what was made for others goes when the next one is made.
        """
        if needed.total() <= 1:
            key = next(iter(needed), NO_FORM)
            if key not in self._alone:
                self._alone = {form: made for form, made in self._alone.items() if form in used}
                self._alone[key] = self._made(needed, forms)
            return self._alone[key]
        held = Mixture.of({}, {}) if self._mixed is None else self._mixed.mixture
        if not needed <= held.counts:
            counts = Counter({form: count for form, count in held.counts.items() if form in used})
            known = {form.form: form for form in held.forms}
            self._mixed = self._made(counts | needed, known | dict(forms))
        assert self._mixed is not None
        return self._mixed

    def _made(self, counts: Mapping[int, int], forms: Mapping[int, EditSet]) -> Session:
        started = time.monotonic()
        session = Session(self._vit, Mixture.of(counts, forms), threads=self._threads)
        took = time.monotonic() - started
        _log.info("made a graph of %d lanes in %.1f s", len(session.mixture.lanes), took)
        return session


def _is_loose(model: Model) -> bool:
    return any(term.adapter.edits.form == NO_FORM for term in model.edited)
