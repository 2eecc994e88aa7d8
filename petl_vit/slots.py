"""Slots: the adapters on the backbone's device, which a forward can use at once.

Adapters of one form have their slots in one tensor, so that one product serves rows of many of them; where
kernels look edits up by number, all are in one arena (`petl_vit.arena`). On a CPU a slot is the adapter in
host memory itself, and the number of slots bounds only what one forward mixes. A new adapter evicts the least
recently used, never a pinned one or one of the running forward. One thread runs forwards; the other methods
may be called from any thread.

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
        """Adds an eighth: free slots of one form are of no use to others."""
        count = len(self.flats)
        more = max(1, count // 8)
        self.flats = torch.cat([self.flats, self.flats.new_zeros(more, self.flats.shape[1])])
        self.free.extend(range(count, count + more))


@dataclass(eq=False, kw_only=True)
class _Slot:
    adapter: Adapter
    stack: _Stack | None = None
    position: int = 0
    placed: Placed | None = None  # with neither a stack nor a place, the slot is the adapter itself
    moved: EditSet | None = None  # or a copy on the device, of edits that do not stack

    @property
    def nbytes(self) -> int:
        if self.placed is not None:
            return self.placed.nbytes
        return self.adapter.nbytes

    @property
    def edits(self) -> EditSet:
        """The adapter's edits on the device."""
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
        max_bytes: The most bytes that they may take; None for any.
        aliased: Whether a slot is the adapter itself; None means: on a CPU.
        arena: Holds the slots that are looked up by number; None where none are.
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
        self.aliased = aliased and arena is None
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
        """Calls `dropped` with the digest of every adapter that loses its slot, in any thread."""
        self._on_drop.append(dropped)

    # A forward

    @contextmanager
    def running(self, adapters: Collection[Adapter]) -> Iterator[None]:
        """Gives each adapter a slot, which it keeps until the forward is over.

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
        """The edits of rows under these adapters, which run and have one form, or are one adapter.

        Valid until `take_back`.
        """
        if len({adapter.digest for adapter in adapters}) == 1:
            return self._slots[adapters[0].digest].edits
        slots = [self._slots[adapter.digest] for adapter in adapters]
        if not adapters[0].edits.edits:  # all have the form that has no tensors
            return slots[0].edits
        stack, buffer = slots[0].stack, self._buffers.lend(adapters[0].edits, len(adapters))
        if stack is None:
            torch.stack([slot.edits.flat for slot in slots], out=buffer.flats)
        else:
            index = torch.tensor([slot.position for slot in slots], device=self._device)
            torch.index_select(stack.flats, 0, index, out=buffer.flats)
        return buffer.edits

    def take_back(self) -> None:
        """Makes the buffers of all that `edits` returned free again."""
        self._buffers.take_back()

    @property
    def buffer_bytes(self) -> int:
        """The bytes of the buffers for rows of several adapters, lent or idle."""
        return self._buffers.nbytes

    def place(self, adapter: Adapter) -> tuple[Tensor, int]:
        """The slots [slots, L] of a running adapter's form, and the adapter's position in them."""
        slot = self._slots[adapter.digest]
        assert slot.stack is not None, f"adapter {adapter.digest[:12]} does not stack, or its slot is itself"
        return slot.stack.flats, slot.position

    def number(self, adapter: Adapter) -> int:
        """A running adapter's row of the arena's table; -1 where it has none."""
        placed = self._slots[adapter.digest].placed
        return -1 if placed is None else placed.slot

    @property
    def forms(self) -> frozenset[int]:
        """The forms that have slots in a tensor."""
        with self._lock:
            return frozenset(self._stacks)

    # Residency

    def __contains__(self, digest: str) -> bool:
        return digest in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def nbytes(self) -> int:
        """The bytes of the adapters in slots; on a CPU these are the registered adapters' bytes."""
        return self._bytes

    def bytes_of(self, digest: str) -> int:
        slot = self._slots.get(digest)
        return 0 if slot is None else slot.nbytes

    def only(self, stays: Callable[[str], bool]) -> None:
        """After each forward, drops its adapters for whose digest `stays` is false.

        A row may run after its adapter is unloaded, and would otherwise leave it in a slot for good.
        """
        self._stays = stays

    def pin(self, adapter: Adapter) -> None:
        """Keeps an adapter in a slot until it is unpinned.

        Raises:
            Overloaded: Pinned and running adapters occupy all slots.
        """
        with self._lock:
            self._enter(adapter)
            self._pinned.add(adapter.digest)

    def enter(self, adapter: Adapter) -> None:
        """Gives an adapter a slot ahead of its first row.

        Raises:
            Overloaded: Pinned and running adapters occupy all slots.
        """
        with self._lock:
            self._enter(adapter)

    def unpin(self, digest: str) -> None:
        with self._lock:
            self._pinned.discard(digest)

    def leave(self, digest: str) -> None:
        """Frees an adapter's slot; if the adapter is running, after its forward."""
        with self._lock:
            self._pinned.discard(digest)
            if digest in self._running:
                self._leaving.add(digest)
            else:
                self._drop(digest)

    def clear(self) -> int:
        """Frees every slot that is neither running nor pinned, and returns how many."""
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
            victim = next((oldest for oldest in self._slots if self._evictable(oldest)), None)
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
        """Before a forward, drops a slot that holds the same adapter as it was loaded before."""
        slot = self._slots.get(adapter.digest)
        if slot is not None and slot.adapter is not adapter:
            self._drop(adapter.digest)

    def _full(self, size: int) -> bool:
        many = self.count is not None and len(self._slots) >= self.count
        return many or (self.max_bytes is not None and self._bytes + size > self.max_bytes)

    def _evictable(self, digest: str) -> bool:
        return digest not in self._running and digest not in self._pinned

    def _placed(self, adapter: Adapter) -> _Slot | None:
        """A slot, or None where another adapter has to be evicted first."""
        edits = adapter.edits
        if self._full(adapter.nbytes):
            return None
        if self.aliased or not edits.edits:
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
