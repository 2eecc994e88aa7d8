from collections import Counter

import pytest
import torch
from torch import Tensor

from benchmarks import bare_products
from benchmarks.adapters import adapter, backbone
from benchmarks.bare_products import BareProducts
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.executors import sliced
from petl_vit.precision import Precision
from petl_vit.products import Params, linear

ROWS = 3


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_they_are_the_products_of_our_forward(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    vit, _ = backbone("test_vit", 32)
    batch, images = Batch(vit.in_precision(precision)), torch.randn(ROWS, 3, 32, 32)
    model = Model([Term(adapter=adapter("bitfit", vit, 0, on=batch.vit))])
    done: Counter[tuple[object, ...]] = Counter()

    def counted(params: Params, name: str, x: Tensor) -> Tensor:
        done[name, tuple(x.shape), x.dtype] += 1
        return linear(params, name, x)

    monkeypatch.setattr(sliced, "linear", counted)
    monkeypatch.setattr(bare_products, "linear", counted)
    batch.logits(images, [Row(image=i, model=model) for i in range(ROWS)])
    ours = done.copy()
    done.clear()
    BareProducts(batch, images).run()

    assert done == ours
    assert len(done) == 4 * vit.arch.depth
