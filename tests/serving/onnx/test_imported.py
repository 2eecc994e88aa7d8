"""Imported edits in ONNX Runtime: those that stack run there, among others."""

import pytest

from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.slots import Slots
from serving.onnx.backend import OnnxBackend
from tests.petl_vit.adapters import adapter_of, images_of
from tests.petl_vit.backbones import family, relative
from tests.petl_vit.imported import imported

pytestmark = pytest.mark.onnx


def test_imported_edits_answer_as_in_pytorch() -> None:
    vit, _ = family("plain")
    adapters = [imported("all", vit), adapter_of("lora", vit), imported("dense", vit)]
    models = [Model([Term(adapter=a, alpha=alpha)]) for a in adapters for alpha in (1.0, 0.3)]
    rows, images = [Row(image=i % 3, model=model) for i, model in enumerate(models)], images_of(vit)

    found = OnnxBackend(lambda size: vit, Slots(aliased=False), threads=1).logits(list(images), rows)

    for z, expected in zip(found, Batch(vit).logits(images, rows), strict=True):
        assert relative(z, expected) <= 1e-4
