"""Slots: the adapters that a forward can use at once, where the backbone is.

Adapters of one form have their slots in one tensor, so that one kernel serves rows of many of them. On a CPU
a slot is the adapter itself, as the host's memory is the device's; the number of slots then bounds only what
one forward mixes. The least recently used make room; those of the running forward and the pinned ones never
do. One thread runs forwards; all else may be called from any.

Shapes: B rows, L elements of a form's flat vector.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from petl_vit.adapter import Adapter
from petl_vit.edit_set import NO_FORM, EditSet
from petl_vit.errors import Overloaded
from petl_vit.row_buffers import RowBuffers


@dataclass(eq=False, kw_only=True)
class _Stack:
    """The slots of one form: [slots, L], grown as needed."""

    flats: Tensor
    free: list[int] = field(default_factory=list)

    @torch.inference_mode()  # as in a forward, which also writes here
    def take(self, flat: Tensor) -> int:
        if not self.free:
            self._grow()
        position = self.free.pop()
        self.flats[position].copy_(flat, non_blocking=True)
        return position

    def _grow(self) -> None:
        """By an eighth, as what is not used is lost to others."""
        count = len(self.flats)
        more = max(1, count // 8)
        self.flats = torch.cat([self.flats, self.flats.new_zeros(more, self.flats.shape[1])])
        self.free.extend(range(count, count + more))


@dataclass(eq=False, kw_only=True)
class _Slot:
    adapter: Adapter
    stack: _Stack | None  # None: the adapter itself
    position: int = 0

    @property
    def nbytes(self) -> int:
        return self.adapter.nbytes


class Slots:
    """A bounded number of adapters on one device.

    Args:
        device: Where forwards run.
        count: How many adapters; None for any number.
        max_bytes: What they may take; None for any.
        aliased: Whether a slot is the adapter itself; None means on a CPU.
    """

    def __init__(
        self,
        device: torch.device | None = None,
        *,
        count: int | None = None,
        max_bytes: int | None = None,
        aliased: bool | None = None,
    ) -> None:
        self._device = device or torch.device("cpu")
        self.count, self.max_bytes = count, max_bytes
        self._aliased = self._device.type == "cpu" if aliased is None else aliased
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._stacks: dict[int, _Stack] = {}
        self._buffers = RowBuffers(self._device)
        self._pinned: set[str] = set()
        self._running: set[str] = set()
        self._leaving: set[str] = set()
        self._bytes = 0
        self._stays: Callable[[str], bool] = lambda digest: True
        self._lock = threading.RLock()
        self._on_drop: list[Callable[[str], None]] = []
        self.evicted = 0

    def on_drop(self, dropped: Callable[[str], None]) -> None:
        """Calls `dropped` with the digest of every adapter that loses its slot, in whatever thread."""
        self._on_drop.append(dropped)

    # A forward

    @contextmanager
    def running(self, adapters: Collection[Adapter]) -> Iterator[None]:
        """Gives each adapter a slot, and keeps all of them in place until the forward is over.

        Raises:
            Overloaded: They do not fit beside the pinned ones.
        """
        try:
            with self._lock:
                self._running = {adapter.digest for adapter in adapters}
                for adapter in adapters:
                    self._enter(adapter)
            yield
        finally:
            with self._lock:
                for digest in self._running:
                    if digest in self._leaving or not self._stays(digest):
                        self._drop(digest)
                self._leaving.clear()
                self._running = set()

    def edits(self, adapters: Sequence[Adapter]) -> EditSet:
        """The edits of rows under these adapters, all running and of one form, or all the same.

        They hold until `take_back`.
        """
        if len({adapter.digest for adapter in adapters}) == 1:
            return self._alone(adapters[0])
        slots = [self._slots[adapter.digest] for adapter in adapters]
        stack, buffer = slots[0].stack, self._buffers.lend(adapters[0].edits, len(adapters))
        if stack is None:
            torch.stack([slot.adapter.edits.flat for slot in slots], out=buffer.flats)
        else:
            index = torch.tensor([slot.position for slot in slots], device=self._device)
            torch.index_select(stack.flats, 0, index, out=buffer.flats)
        return buffer.edits

    def take_back(self) -> None:
        """Nothing that `edits` returned is in use any more."""
        self._buffers.take_back()

    def place(self, adapter: Adapter) -> tuple[Tensor, int]:
        """The slots [slots, L] of a running adapter's form, and which of them is its own; none is aliased."""
        slot = self._slots[adapter.digest]
        assert slot.stack is not None, f"adapter {adapter.digest[:12]} does not stack, or its slot is itself"
        return slot.stack.flats, slot.position

    @property
    def forms(self) -> frozenset[int]:
        """The forms of which an adapter has a slot that is not aliased."""
        with self._lock:
            return frozenset(self._stacks)

    def _alone(self, adapter: Adapter) -> EditSet:
        slot = self._slots[adapter.digest]
        return adapter.edits if slot.stack is None else adapter.edits.at(slot.stack.flats[slot.position])

    # What is in a slot

    def __contains__(self, digest: str) -> bool:
        return digest in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def nbytes(self) -> int:
        """The bytes of the adapters in a slot, on a CPU the very bytes of the registered ones."""
        return self._bytes

    def bytes_of(self, digest: str) -> int:
        slot = self._slots.get(digest)
        return 0 if slot is None else slot.nbytes

    def only(self, stays: Callable[[str], bool]) -> None:
        """Keeps nothing after its forward but the adapters, by digest, of which this is true by then.

        A row may outlive its adapter's registration, and would bring it back for good.
        """
        self._stays = stays

    def pin(self, adapter: Adapter) -> None:
        """Keeps an adapter in a slot until it is unpinned.

        Raises:
            Overloaded: All slots are taken by pinned and running ones.
        """
        with self._lock:
            self._enter(adapter)
            self._pinned.add(adapter.digest)

    def enter(self, adapter: Adapter) -> None:
        """Gives an adapter a slot ahead of its first row.

        Raises:
            Overloaded: All slots are taken by pinned and running ones.
        """
        with self._lock:
            self._enter(adapter)

    def unpin(self, digest: str) -> None:
        with self._lock:
            self._pinned.discard(digest)

    def leave(self, digest: str) -> None:
        """Frees an adapter's slot, of a running one after its forward."""
        with self._lock:
            self._pinned.discard(digest)
            if digest in self._running:
                self._leaving.add(digest)
            else:
                self._drop(digest)

    def clear(self) -> int:
        """Frees every slot that is neither running nor pinned; says how many."""
        with self._lock:
            idle = [digest for digest in self._slots if self._evictable(digest)]
            for digest in idle:
                self._drop(digest)
            return len(idle)

    def _enter(self, adapter: Adapter) -> None:
        digest = adapter.digest
        self._leaving.discard(digest)
        if digest in self._slots:
            self._slots.move_to_end(digest)
            return
        while self._full(adapter.nbytes):
            victim = next((found for found in self._slots if self._evictable(found)), None)
            if victim is None:
                raise Overloaded(
                    f"all {len(self._slots)} slots are pinned or in use",
                    field="slots",
                    remedy="unpin adapters, or start the server with more --slots or --bank-bytes",
                )
            self._drop(victim)
            self.evicted += 1
        self._slots[digest] = self._placed(adapter)
        self._bytes += adapter.nbytes

    def _full(self, size: int) -> bool:
        many = self.count is not None and len(self._slots) >= self.count
        return many or (self.max_bytes is not None and self._bytes + size > self.max_bytes)

    def _evictable(self, digest: str) -> bool:
        return digest not in self._running and digest not in self._pinned

    def _placed(self, adapter: Adapter) -> _Slot:
        edits = adapter.edits
        if self._aliased or edits.form == NO_FORM or not edits.edits:
            return _Slot(adapter=adapter, stack=None)
        stack = self._stacks.get(edits.form)
        if stack is None:
            flats = torch.empty(0, len(edits.flat), dtype=edits.flat.dtype, device=self._device)
            stack = self._stacks[edits.form] = _Stack(flats=flats)
        return _Slot(adapter=adapter, stack=stack, position=stack.take(edits.flat))

    def _drop(self, digest: str) -> None:
        slot = self._slots.pop(digest, None)
        if slot is None:
            return
        self._bytes -= slot.nbytes
        for dropped in self._on_drop:
            dropped(digest)
        if slot.stack is None:
            return
        slot.stack.free.append(slot.position)
        if len(slot.stack.free) == len(slot.stack.flats):
            del self._stacks[slot.adapter.edits.form]
