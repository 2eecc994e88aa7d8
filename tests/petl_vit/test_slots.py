"""Adapters in slots: bounded, least recently used first, never moved under a forward, and all the same."""

import gc
import itertools
import random
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.edits import fold
from petl_vit.errors import Overloaded
from petl_vit.products import Params
from petl_vit.slots import Slots
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import NAMES, adapter_of, adapter_with, images_of
from tests.petl_vit.backbones import family, relative

KINDS = [True, False]
"""Whether a slot is the adapter itself, or a place in a stack as on a GPU."""
LOOSE = ("full", "selective", "vpt_shallow", "vqt")


@pytest.fixture(scope="module")
def vit() -> FrozenViT:
    return family("plain")[0]


@pytest.fixture(scope="module")
def loras(vit: FrozenViT) -> list[Adapter]:
    return [adapter_of("lora", vit, seed) for seed in range(6)]


def use(slots: Slots, *adapters: Adapter) -> None:
    with slots.running(adapters):
        pass


def inside(slots: Slots, adapters: Sequence[Adapter]) -> list[int]:
    return [i for i, adapter in enumerate(adapters) if adapter.digest in slots]


def storages(tensors: Sequence[Tensor]) -> int:
    """Bytes of tensors, shared memory once."""
    found = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(found.values())


# Who has a slot


@pytest.mark.parametrize("aliased", KINDS)
def test_the_least_recently_used_make_room(loras: list[Adapter], aliased: bool) -> None:
    slots = Slots(count=3, aliased=aliased)
    for i in (0, 1, 2, 0, 3):
        use(slots, loras[i])
    assert inside(slots, loras) == [0, 2, 3]
    use(slots, loras[4], loras[5])
    assert inside(slots, loras) == [3, 4, 5]
    assert slots.evicted == 3


@pytest.mark.parametrize("aliased", KINDS)
def test_slots_are_bounded_in_bytes(loras: list[Adapter], aliased: bool) -> None:
    slots = Slots(max_bytes=int(2.5 * loras[0].nbytes), aliased=aliased)
    for adapter in loras:
        use(slots, adapter)
        assert slots.nbytes <= 2.5 * loras[0].nbytes
    assert inside(slots, loras) == [4, 5]


def test_without_a_bound_all_stay(loras: list[Adapter]) -> None:
    slots = Slots()
    use(slots, *loras)
    assert len(slots) == 6
    assert slots.evicted == 0


@pytest.mark.parametrize("aliased", KINDS)
def test_a_pinned_adapter_stays_until_it_is_unpinned(loras: list[Adapter], aliased: bool) -> None:
    slots = Slots(count=2, aliased=aliased)
    slots.pin(loras[0])
    for adapter in loras[1:]:
        use(slots, adapter)
    assert inside(slots, loras) == [0, 5]

    slots.unpin(loras[0].digest)
    use(slots, loras[1], loras[2])
    assert inside(slots, loras) == [1, 2]


def test_more_than_fit_beside_the_pinned_are_refused_and_those_who_ran_are_free(loras: list[Adapter]) -> None:
    slots = Slots(count=3)
    slots.pin(loras[0])

    with pytest.raises(Overloaded, match="pinned or in use") as caught, slots.running(loras[1:4]):
        raise AssertionError("it ran")

    assert caught.value.field == "slots"
    use(slots, *loras[4:])
    assert inside(slots, loras) == [0, 4, 5]


def test_an_adapter_may_enter_ahead_of_its_first_row(loras: list[Adapter]) -> None:
    slots = Slots(count=2)
    slots.enter(loras[0])
    assert loras[0].digest in slots
    assert slots.bytes_of(loras[0].digest) == loras[0].nbytes
    assert slots.bytes_of(loras[1].digest) == 0


def test_clearing_frees_all_but_the_running_and_the_pinned(loras: list[Adapter]) -> None:
    slots = Slots()
    for adapter in loras:
        slots.enter(adapter)
    slots.pin(loras[0])
    with slots.running(loras[1:3]):
        assert slots.clear() == 3
        assert inside(slots, loras) == [0, 1, 2]
    assert slots.clear() == 2
    assert inside(slots, loras) == [0]


# Under a forward


@pytest.mark.parametrize("aliased", KINDS)
def test_a_slot_is_never_reused_under_a_running_batch(loras: list[Adapter], aliased: bool) -> None:
    slots = Slots(count=2, aliased=aliased)
    with slots.running(loras[:2]):
        before = [slots.edits([adapter]).flat.clone() for adapter in loras[:2]]
        for other in loras[2:]:
            with pytest.raises(Overloaded):
                slots.enter(other)
        slots.leave(loras[0].digest)
        with pytest.raises(Overloaded):
            slots.pin(loras[2])
        assert all(
            slots.edits([adapter]).flat.equal(flat) for adapter, flat in zip(loras, before, strict=False)
        )
    slots.pin(loras[2])
    assert inside(slots, loras) == [1, 2]


@pytest.mark.parametrize("aliased", KINDS)
def test_a_running_adapter_that_leaves_is_gone_after_the_forward(loras: list[Adapter], aliased: bool) -> None:
    slots = Slots(aliased=aliased)
    with slots.running(loras[:2]):
        slots.leave(loras[0].digest)
        assert inside(slots, loras) == [0, 1]
    assert inside(slots, loras) == [1]
    assert slots.nbytes == loras[1].nbytes


def test_a_running_adapter_that_leaves_and_enters_again_stays(loras: list[Adapter]) -> None:
    slots = Slots()
    with slots.running(loras[:1]):
        slots.leave(loras[0].digest)
        slots.enter(loras[0])
    assert inside(slots, loras) == [0]


def test_a_forward_that_fails_leaves_no_adapter_running(loras: list[Adapter]) -> None:
    slots = Slots(count=2)
    with pytest.raises(MemoryError), slots.running(loras[:2]):
        raise MemoryError
    assert slots.clear() == 2


def test_an_adapter_that_cannot_be_placed_leaves_no_adapter_running(
    loras: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = Slots(aliased=False)
    place = slots._placed

    def placed(adapter: Adapter) -> object:
        if adapter is loras[1]:
            raise torch.OutOfMemoryError("no memory")
        return place(adapter)

    monkeypatch.setattr(slots, "_placed", placed)
    with pytest.raises(torch.OutOfMemoryError), slots.running(loras[:2]):
        raise AssertionError("it ran")
    assert inside(slots, loras) == [0]
    assert slots.nbytes == loras[0].nbytes
    assert slots.clear() == 1


def test_only_what_may_stay_does_after_its_forward(loras: list[Adapter]) -> None:
    slots, registered = Slots(), {loras[0].digest}
    slots.only(registered.__contains__)
    with slots.running(loras[:2]):
        assert inside(slots, loras) == [0, 1]
    assert inside(slots, loras) == [0]


# What a slot holds


def test_an_aliased_slot_takes_no_memory_of_its_own(loras: list[Adapter]) -> None:
    slots = Slots(aliased=True)
    with slots.running(loras):
        assert all(slots.edits([adapter]) is adapter.edits for adapter in loras)
        assert not slots.forms


@pytest.mark.parametrize("aliased", KINDS)
def test_the_account_is_the_bytes_of_the_tensors(vit: FrozenViT, aliased: bool) -> None:
    adapters = [adapter_of(name, vit, seed) for name in NAMES for seed in (0, 1)]
    slots = Slots(aliased=aliased)
    for count, adapter in enumerate(adapters, start=1):
        use(slots, adapter)
        held = [t for a in adapters[:count] for t in [*a.head.tensors().values(), *a.edits.all_tensors()]]
        assert slots.nbytes == storages(held)
        assert slots.bytes_of(adapter.digest) == adapter.nbytes
    for adapter in adapters:
        slots.leave(adapter.digest)
    assert (slots.nbytes, len(slots), slots.forms) == (0, 0, frozenset())


def test_stacks_grow_by_little_and_go_with_their_last_adapter(vit: FrozenViT) -> None:
    adapters = [adapter_of("lora", vit, seed) for seed in range(20)]
    slots = Slots(aliased=False)
    flat = adapters[0].edits.flat
    for count, adapter in enumerate(adapters, start=1):
        use(slots, adapter)
        assert count <= len(slots.place(adapter)[0]) <= count + max(1, count // 8)
    for adapter in adapters[:10]:
        slots.leave(adapter.digest)
    size = len(slots.place(adapters[10])[0])
    again = [adapter_of("lora", vit, seed) for seed in range(30, 40)]
    use(slots, *again)
    assert len(slots.place(again[0])[0]) == size, "free places are used again"
    with slots.running([*adapters[10:], *again]):
        for adapter in [*adapters[10:], *again]:
            assert slots.edits([adapter]).flat.equal(adapter.edits.flat)
            assert slots.edits([adapter]).flat.data_ptr() != adapter.edits.flat.data_ptr()
    assert flat.equal(adapters[0].edits.flat)
    slots.clear()
    assert not slots.forms


@pytest.mark.parametrize("name", NAMES)
def test_aliased_and_stacked_slots_give_the_same_logits(name: str) -> None:
    """Stacking methods and loose ones alike, at several alphas, each as it is alone."""
    vit, _ = family("plain", dtype=torch.float64)
    images = images_of(vit)
    adapters = [adapter_of(name, vit, seed) for seed in range(3)]
    models = [
        Model([Term(adapter=adapter, alpha=alpha)]) for adapter in adapters for alpha in (1.0, 0.3, 0.0)
    ]
    models.append(Model([Term(adapter=adapter, alpha=0.4) for adapter in adapters[:2]]))
    models.append(
        Model([Term(adapter=adapters[2], alpha=0.5), Term(adapter=adapter_of("bitfit", vit), alpha=0.5)])
    )
    rows = [Row(image=i, model=model) for model in models for i in range(3)]
    aliased, stacked_ = (Batch(vit, slots=Slots(aliased=kind)).logits(images, rows) for kind in (True, False))
    for row, ours, theirs in zip(rows, aliased, stacked_, strict=True):
        assert relative(theirs, ours) <= 1e-9
        alone = Batch(vit).logits(images[row.image : row.image + 1], [Row(image=0, model=row.model)])[0]
        assert relative(ours, alone) <= 1e-9


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_parameters_made_of_an_adapter_go_with_its_slot(
    vit: FrozenViT, alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Tensor]] = []

    def remembered(*given: Any) -> Params:
        found = fold(*given)
        made.extend(weakref.ref(tensor) for tensor in found.values() if tensor.numel() > 10_000)
        return found

    monkeypatch.setattr("petl_vit.batch.fold", remembered)
    slots, model = Slots(), Model([Term(adapter=adapter_of("full", vit), alpha=alpha)])
    batch = Batch(vit, slots=slots)
    batch.logits(images_of(vit), [Row(image=0, model=model)])
    assert made
    frozen = {id(tensor) for tensor in vit.params.values()}

    slots.leave(model.digests[0])
    del model

    gc.collect()
    assert {id(tensor) for ref in made if (tensor := ref()) is not None} <= frozen


# All of it at once


def _mix(vit: FrozenViT) -> list[Adapter]:
    """64 adapters of all methods, with several ranks where there are ranks."""
    ranked = [
        adapter_with(methods.get(name).configure({"rank": rank}), vit, 10 * rank)
        for name in ("lora", "adaptformer", "houlsby", "pfeiffer", "convpass")
        for rank in (1, 2, 5, 8)
    ]
    plain = [adapter_of(name, vit, seed) for seed in (0, 1, 2, 3) for name in NAMES]
    return (ranked + plain)[:64]


def test_no_cross_talk_between_stacked_slots_under_churn() -> None:
    """Forwards in one thread; others load, pin and unload all the time, and slots are few."""
    vit, _ = family("plain")
    images, adapters = images_of(vit, 2), _mix(vit)
    models = [
        Model([Term(adapter=adapter, alpha=alpha)])
        for adapter, alpha in zip(adapters, itertools.cycle((1.0, 0.3, 0.7)), strict=False)
    ]
    models += [
        Model([Term(adapter=a, alpha=0.5), Term(adapter=b, alpha=0.4)])
        for a, b in zip(adapters[::2], adapters[1::2], strict=True)
    ]
    expected = [[Batch(vit).logits(images, [Row(image=i, model=m)])[0] for i in (0, 1)] for m in models]
    assert len({z[0].numpy().round(4).tobytes() for z in expected}) == len(models), "all tell apart"
    slots = Slots(count=8, aliased=False)
    batch, stop = Batch(vit, slots=slots), threading.Event()

    def churn(seed: int) -> int:
        chance, done = random.Random(seed), 0
        while not stop.is_set():
            adapter = chance.choice(adapters)
            try:
                match chance.randrange(4):
                    case 0:
                        slots.enter(adapter)
                    case 1:
                        slots.pin(adapter)
                        slots.unpin(adapter.digest)
                    case 2:
                        slots.leave(adapter.digest)
                    case _:
                        slots.clear()
            except Overloaded:
                continue
            done += 1
        return done

    chance, forwards = random.Random(0), 0
    with ThreadPoolExecutor(2) as pool:
        churning = [pool.submit(churn, seed) for seed in (1, 2)]
        try:
            while forwards < 300:
                numbers = chance.sample(range(len(models)), 3)
                rows = [Row(image=i, model=models[n]) for n in numbers for i in (0, 1)]
                try:
                    found = batch.logits(images, rows)
                except Overloaded:  # what is pinned for a moment took the place
                    continue
                forwards += 1
                for (n, i), z in zip(itertools.product(numbers, (0, 1)), found, strict=True):
                    assert relative(z, expected[n][i]) <= 1e-4
                assert len(slots) <= 8
        finally:
            stop.set()
        assert min(future.result() for future in churning) > 100
    slots.clear()
    assert (slots.nbytes, slots.forms) == (0, frozenset())
