"""Adapters of one form stack: one kernel, and each row is what it is under its own adapter alone."""

import dataclasses
from typing import ClassVar

import pytest
import torch

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Model, Row, Term, _forks
from petl_vit.edit_set import NO_FORM, EditSet, size_class
from petl_vit.edits import Dense
from petl_vit.executors.lanes import Lane
from petl_vit.executors.sliced import Sliced
from petl_vit.products import Params
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import NAMES, PAIRS, adapter_of, adapter_with, images_of, random_tensors
from tests.petl_vit.backbones import FAMILIES, family, relative

LOOSE = {"full", "selective", "vpt_shallow", "vqt"}
STACKING = [name for name in NAMES if name not in LOOSE]


def stacked(rows: list[EditSet]) -> EditSet:
    """One edit set with tensors of each of `rows`, all of one form."""
    return rows[0].with_rows(torch.stack([row.flat for row in rows]))


@pytest.mark.parametrize(("name", "kind"), [pair for pair in PAIRS if pair[0] in STACKING])
def test_rows_of_stacked_adapters_are_what_each_is_alone(kind: str, name: str) -> None:
    vit, _ = family(kind, dtype=torch.float64)
    images = images_of(vit)
    adapters = [adapter_of(name, vit, seed) for seed in range(3)]
    sets = [adapter.edits for adapter in adapters]
    alpha = torch.tensor([1.0, 0.3, 0.0], dtype=torch.float64).view(3, 1, 1)
    with torch.inference_mode():
        together = vit.forward(
            images, Sliced(vit, [Lane(rows=slice(0, 3), edits=stacked(sets), alpha=alpha)])
        )
        for i, edits in enumerate(sets):
            lane = Lane(rows=slice(0, 1), edits=edits, alpha=alpha[i : i + 1])
            alone = vit.forward(images[i : i + 1], Sliced(vit, [lane]))
            assert relative(together[i], alone[0]) <= 1e-9


@pytest.mark.parametrize("name", sorted(LOOSE))
def test_what_replaces_parameters_or_joins_tokens_stacks_with_nothing(name: str) -> None:
    vit, _ = family("plain")
    assert adapter_of(name, vit).edits.form == NO_FORM


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        ("lora", (5, 8)),
        ("adaptformer", (3, 4)),
        ("convpass", (1, 1)),
        ("convpass", (5, 7)),
        ("houlsby", (6, 8)),
    ],
)
def test_ranks_of_one_size_class_share_a_form_and_change_nothing(name: str, ranks: tuple[int, int]) -> None:
    vit, _ = family("plain", dtype=torch.float64)
    images = images_of(vit)
    forms = []
    for seed, rank in enumerate(ranks):
        method = methods.get(name).configure({"rank": rank})
        adapter = adapter_with(method, vit, seed)
        exact = EditSet(method.edits(vit, random_tensors(method, vit, seed)))
        forms.append(adapter.edits.form)
        with torch.inference_mode():
            padded, unpadded = (
                vit.forward(images, Sliced(vit, [Lane(rows=slice(0, 3), edits=edits, alpha=None)]))
                for edits in (adapter.edits, exact)
            )
        assert relative(padded, unpadded) <= 1e-12
    other = adapter_with(methods.get(name).configure({"rank": 9}), vit)
    assert forms[0] == forms[1] != other.edits.form


def _wise(adapter: Adapter) -> Model:
    return Model([Term(adapter=adapter)])


def test_an_adapter_is_one_vector_that_its_edits_are_views_of() -> None:
    vit, _ = family("plain")
    edits = adapter_of("lora", vit).edits
    storage = edits.flat.untyped_storage().data_ptr()
    assert all(
        edit.a.untyped_storage().data_ptr() == storage for found in edits.sites.values() for edit in found
    )


def test_size_classes_are_the_powers_of_two() -> None:
    assert [size_class(rank) for rank in (0, 1, 2, 3, 8, 9, 64)] == [1, 1, 2, 4, 8, 16, 64]


class _Counting(Sliced):
    """Counts the rows of every block and the images of every patch convolution."""

    rows: ClassVar[list[int]] = []

    def attend(self, block: int, qkv: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(qkv))
        return super().attend(block, qkv)


@pytest.mark.parametrize("kind", FAMILIES)
def test_rows_of_one_image_share_the_blocks_before_their_first_edit(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit, _ = family(kind)
    images, depth = images_of(vit), vit.arch.depth
    late = _late(vit, depth - 1)
    dense = dataclasses.replace(late, digest="dense", edits=EditSet([_replaced(vit, depth - 1)]))
    heads = [adapter_of("linear", vit, seed) for seed in (0, 1)]
    models = [_wise(adapter) for adapter in (adapter_of("lora", vit), late, dense, *heads)]
    rows = [Row(image=i, model=model) for i in range(3) for model in models]
    monkeypatch.setattr("petl_vit.batch.Sliced", _Counting)
    _Counting.rows = []
    convolved = []

    def patches(images: torch.Tensor, params: Params) -> torch.Tensor:
        convolved.append(len(images))
        return FrozenViT.patches(vit, images, params)

    monkeypatch.setattr(vit, "patches", patches)
    found = Batch(vit).logits(images, rows)
    assert convolved == [3]
    # Three LoRA rows; the other twelve are three images until the last block, then six rows and three images.
    assert _Counting.rows == [6] * (depth - 1) + [12]
    monkeypatch.undo()
    for row, logits in zip(rows, found, strict=True):
        alone = Batch(vit).logits(images[row.image : row.image + 1], [Row(image=0, model=row.model)])[0]
        assert relative(logits, alone) <= 1e-5


def _late(vit: FrozenViT, block: int) -> Adapter:
    """A LoRA whose edits begin in one block."""
    adapter = adapter_of("lora", vit, 7)
    edits = [edit for edit in adapter.edits.edits if edit.site.startswith(f"blocks.{block}.")]
    return dataclasses.replace(adapter, digest="late", edits=EditSet(edits).packed())


def _replaced(vit: FrozenViT, block: int) -> Dense:
    name = f"blocks.{block}.mlp.fc1.weight"
    return Dense(name=name, tensor=vit.params[name] * 1.5)


def test_rows_that_are_edited_at_once_never_part() -> None:
    vit, _ = family("plain")
    models = [_wise(adapter_of(name, vit)) for name in ("lora", "ssf")]
    rows = [Row(image=0, model=models[0]), Row(image=1, model=models[1])]
    assert _forks(rows, [0, 1], vit.arch.depth) == {0: [0, 1]}


def test_at_alpha_0_a_row_is_the_frozen_backbone_under_the_base_head() -> None:
    vit, _ = family("plain")
    images = images_of(vit)
    for name in NAMES:
        adapter = adapter_of(name, vit)
        found = Batch(vit).logits(images, [Row(image=0, model=Model([Term(adapter=adapter, alpha=0.0)]))])[0]
        with torch.inference_mode():
            frozen = adapter.base_head.logits(vit.forward(images[:1], Sliced(vit, [])))[0]
        assert torch.equal(found, frozen)


def test_small_edits_leave_the_number_of_threads_as_it_was() -> None:
    vit, _ = family("plain")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        models = [_wise(adapter_of(name, vit)) for name in ("lora", "convpass", "ssf")]
        rows = [Row(image=0, model=model) for model in models]
        many = Batch(vit).logits(images_of(vit), rows)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        for one, found in zip(Batch(vit).logits(images_of(vit), rows), many, strict=True):
            assert relative(found, one) <= 1e-5
    finally:
        torch.set_num_threads(threads)
