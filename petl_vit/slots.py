"""Slots: the adapters that a forward can use at once, where the backbone is.

Adapters of one form have their slots in one tensor, so that one product serves rows of many of them; or,
where kernels look edits up by number, all are in one arena (`petl_vit.arena`). On a CPU a slot is the adapter
itself, as the host's memory is the device's; the number of slots then bounds only what one forward mixes. The
least recently used make room; those of the running forward and the pinned ones never do. One thread runs
forwards; all else may be called from any.

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
from petl_vit.arena import Arena, Placed
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
    stack: _Stack | None = None
    position: int = 0
    placed: Placed | None = None  # neither: the adapter itself, or where that is elsewhere
    moved: EditSet | None = None  # a copy of what stacks with nothing

    @property
    def nbytes(self) -> int:
        if self.placed is not None:
            return self.placed.nbytes
        return self.adapter.nbytes

    @property
    def edits(self) -> EditSet:
        """The adapter's edits where the slot is."""
        if self.stack is not None:
            return self.adapter.edits.at(self.stack.flats[self.position])
        if self.placed is not None:
            return self.placed.edits
        return self.adapter.edits if self.moved is None else self.moved


class Slots:
    """A bounded number of adapters on one device.

    Args:
        device: Where forwards run.
        count: How many adapters; None for any number.
        max_bytes: What they may take; None for any.
        aliased: Whether a slot is the adapter itself; None means on a CPU.
        arena: Where the slots are, if they are to be looked up by number.
    """

    def __init__(
        self,
        device: torch.device | None = None,
        *,
        count: int | None = None,
        max_bytes: int | None = None,
        aliased: bool | None = None,
        arena: Arena | None = None,
    ) -> None:
        self._device = device or torch.device("cpu")
        self.count, self.max_bytes = count, max_bytes
        self.arena = arena
        aliased = self._device.type == "cpu" if aliased is None else aliased
        self._aliased = aliased and arena is None
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
                    self._drop_other_form(adapter)
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
            return self._slots[adapters[0].digest].edits
        slots = [self._slots[adapter.digest] for adapter in adapters]
        stack, buffer = slots[0].stack, self._buffers.lend(adapters[0].edits, len(adapters))
        if stack is None:
            torch.stack([slot.edits.flat for slot in slots], out=buffer.flats)
        else:
            index = torch.tensor([slot.position for slot in slots], device=self._device)
            torch.index_select(stack.flats, 0, index, out=buffer.flats)
        return buffer.edits

    def take_back(self) -> None:
        """Nothing that `edits` returned is in use any more."""
        self._buffers.take_back()

    @property
    def buffer_bytes(self) -> int:
        """The bytes of the buffers for rows of several adapters, lent or idle."""
        return self._buffers.nbytes

    def place(self, adapter: Adapter) -> tuple[Tensor, int]:
        """The slots [slots, L] of a running adapter's form, and which of them is its own; none is aliased."""
        slot = self._slots[adapter.digest]
        assert slot.stack is not None, f"adapter {adapter.digest[:12]} does not stack, or its slot is itself"
        return slot.stack.flats, slot.position

    def number(self, adapter: Adapter) -> int:
        """The row of the arena's table of a running adapter; -1 where that has none."""
        placed = self._slots[adapter.digest].placed
        return -1 if placed is None else placed.slot

    @property
    def forms(self) -> frozenset[int]:
        """The forms of which an adapter has a slot that is not aliased."""
        with self._lock:
            return frozenset(self._stacks)

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
        while (slot := self._placed(adapter)) is None:
            victim = next((found for found in self._slots if self._evictable(found)), None)
            if victim is None:
                raise Overloaded(
                    f"all {len(self._slots)} slots are pinned or in use",
                    field="slots",
                    remedy="unpin adapters, or start the server with more --slots or --device-bytes",
                )
            self._drop(victim)
            self.evicted += 1
        self._slots[digest] = slot
        self._bytes += slot.nbytes

    def _drop_other_form(self, adapter: Adapter) -> None:
        """Before a forward: the slot may hold what the adapter was loaded as earlier."""
        slot = self._slots.get(adapter.digest)
        if slot is not None and slot.adapter is not adapter:
            self._drop(adapter.digest)

    def _full(self, size: int) -> bool:
        many = self.count is not None and len(self._slots) >= self.count
        return many or (self.max_bytes is not None and self._bytes + size > self.max_bytes)

    def _evictable(self, digest: str) -> bool:
        return digest not in self._running and digest not in self._pinned

    def _placed(self, adapter: Adapter) -> _Slot | None:
        """A slot, or None where another has to make room first."""
        edits = adapter.edits
        if self._full(adapter.nbytes):
            return None
        if self._aliased or not edits.edits:
            return _Slot(adapter=adapter)
        if self.arena is not None:
            placed = self.arena.place(edits)
            return None if placed is None else _Slot(adapter=adapter, placed=placed)
        if edits.form == NO_FORM:
            moved = edits.mapped(lambda tensor: tensor.to(self._device, non_blocking=True))
            return _Slot(adapter=adapter, moved=moved)
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
        if slot.placed is not None and self.arena is not None:
            self.arena.give_back(slot.placed)
        if slot.stack is None:
            return
        slot.stack.free.append(slot.position)
        if len(slot.stack.free) == len(slot.stack.flats):
            del self._stacks[slot.adapter.edits.form]
