"""Buffers of rows are lent once at a time, used again, and bounded."""

import itertools

import torch

from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.executors.lanes import Lane
from petl_vit.executors.sliced import Sliced
from petl_vit.row_buffers import RowBuffers
from tests.petl_vit.adapters import adapter_of, images_of
from tests.petl_vit.backbones import family, relative

CPU = torch.device("cpu")


def test_what_is_lent_is_not_lent_again_until_it_is_back() -> None:
    form = adapter_of("lora", family("plain")[0]).edits
    buffers = RowBuffers(CPU)
    first, second = buffers.lend(form, 3), buffers.lend(form, 3)
    assert first.flats.data_ptr() != second.flats.data_ptr()
    buffers.take_back()
    again = {buffers.lend(form, 3).flats.data_ptr() for _ in range(2)}
    assert again == {first.flats.data_ptr(), second.flats.data_ptr()}
    assert buffers.lend(form, 2).flats.shape == (2, len(form.flat))


def test_idle_buffers_are_bounded_and_the_oldest_go() -> None:
    form = adapter_of("lora", family("plain")[0]).edits
    one_row = form.flat.nbytes
    buffers = RowBuffers(CPU, max_bytes=5 * one_row)
    for rows in (2, 3, 4):
        buffers.lend(form, rows)
        buffers.take_back()
    assert buffers.idle_bytes == 4 * one_row
    buffers.lend(form, 1)
    assert (buffers.idle_bytes, buffers.nbytes) == (4 * one_row, 5 * one_row)


def test_two_terms_of_one_form_read_their_own_vectors_batch_after_batch() -> None:
    vit, _ = family("plain")
    images = images_of(vit)
    loras = [adapter_of("lora", vit, seed) for seed in range(6)]
    batch = Batch(vit)
    for shift in (0, 3):  # the second batch finds the buffers of the first, full of other adapters
        order = loras[shift:] + loras[:shift]
        pairs = itertools.pairwise(order)
        models = [Model([Term(adapter=adapter, alpha=0.5) for adapter in pair]) for pair in pairs]
        found = batch.logits(images, [Row(image=0, model=model) for model in models])
        for model, logits in zip(models, found, strict=True):
            lanes = [
                Lane(rows=slice(0, 1), edits=t.adapter.edits, alpha=torch.full((1, 1, 1), t.alpha))
                for t in model.terms
            ]
            with torch.inference_mode():
                alone = model.logits(vit.forward(images[:1], Sliced(vit, lanes)))[0]
            assert relative(logits, alone) <= 1e-5
