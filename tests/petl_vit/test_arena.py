"""The arena: what is placed is whole, never overlaps, and its room is used again."""

from dataclasses import replace

import pytest
import torch

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.arena import Arena, Layout
from petl_vit.errors import InvalidInput
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import NAMES, adapter_of, adapter_with
from tests.petl_vit.backbones import family

CPU = torch.device("cpu")
LOOSE = {"full", "ia3", "selective", "vpt_shallow", "vqt"}


def wide(name: str, vit: FrozenViT, rank: int) -> Adapter:
    return adapter_with(methods.get(name).configure({"rank": rank}), vit)


def arena_of(vit: FrozenViT, nbytes: int = 2**26, slots: int = 32) -> Arena:
    return Arena(vit.arch, nbytes=nbytes, slots=slots, dtype=vit.dtype, device=CPU)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_comes_back_whole(name: str) -> None:
    vit, _ = family("plain")
    edits = adapter_of(name, vit, 0).edits
    placed = arena_of(vit).place(edits)
    assert placed is not None
    assert (placed.slot < 0) == (name in LOOSE)
    tensors = (lambda e: e.all_tensors()) if name in LOOSE else (lambda e: [e.flat])
    for original, copy in zip(tensors(edits), tensors(placed.edits), strict=True):
        assert original.equal(copy)
        assert not original.numel() or original.data_ptr() != copy.data_ptr()


def test_the_table_says_where_the_tensors_begin() -> None:
    vit, _ = family("plain")
    arena, layout = arena_of(vit), Layout(vit.arch)
    arena.place(adapter_of("ssf", vit, 0).edits)
    adapter = adapter_of("bitfit", vit, 0)
    placed = arena.place(adapter.edits)
    assert placed is not None
    (edit,) = adapter.edits.sites["blocks.0.mlp.fc1"]
    start = int(arena.table[placed.slot, layout.first["blocks.0.mlp.fc1"] + 1])
    assert arena.bank[start : start + vit.arch.hidden].equal(edit.shift)


def test_a_bottleneck_wider_than_the_kernels_take_has_no_slot() -> None:
    vit, _ = family("plain")
    layout = Layout(vit.arch)
    assert layout.column(wide("adaptformer", vit, 64).edits) is not None
    assert layout.column(wide("adaptformer", vit, 65).edits) is None


def test_a_hidden_layer_that_the_kernels_cannot_read_by_sixteens_has_no_slots() -> None:
    vit, _ = family("swiglu")
    edits = adapter_of("lora", vit).edits
    assert Layout(replace(vit.arch, hidden=104)).column(edits) is not None  # Virchow's is so, too: 3416
    assert Layout(replace(vit.arch, hidden=100)).column(edits) is None


def test_what_leaves_makes_room_in_one_piece() -> None:
    vit, _ = family("plain")
    loras = [wide("lora", vit, 8)] * 4
    table = arena_of(vit, slots=8).table.nbytes
    arena = arena_of(vit, nbytes=table + 3 * loras[0].edits.flat.nbytes, slots=8)
    placed = [arena.place(adapter.edits) for adapter in loras]
    assert placed[3] is None, "three fill it"
    first, second, third = placed[:3]
    assert first is not None
    assert second is not None
    assert third is not None
    arena.give_back(first)
    arena.give_back(third)
    wider = wide("lora", vit, 16).edits
    assert wider.flat.nbytes > loras[0].edits.flat.nbytes
    assert arena.place(wider) is None, "free, but in two pieces"
    arena.give_back(second)
    assert arena.place(wider) is not None


def test_slots_run_out_before_the_bank_does() -> None:
    vit, _ = family("plain")
    arena = arena_of(vit, slots=2)
    assert arena.place(adapter_of("lora", vit, 0).edits) is not None
    assert arena.place(adapter_of("lora", vit, 1).edits) is not None
    assert arena.place(adapter_of("lora", vit, 2).edits) is None
    assert arena.place(adapter_of("vqt", vit, 2).edits) is not None, "which needs none"


def test_its_bytes_are_what_it_was_given() -> None:
    vit, _ = family("plain")
    arena = arena_of(vit, nbytes=10_000_000)
    assert 10_000_000 - vit.dtype.itemsize < arena.nbytes <= 10_000_000


def test_a_table_that_leaves_no_room_is_refused_by_name() -> None:
    vit, _ = family("plain")
    with pytest.raises(InvalidInput, match="a table for 1000 slots") as caught:
        arena_of(vit, nbytes=1000, slots=1000)
    assert caught.value.field == "device_bytes"
