"""What the files of `serving.onnx.export` are made of; `test_cli_export.py` runs them."""

import pytest
import torch
from torch import nn

from petl_vit.errors import Unsupported
from petl_vit.heads import ClipHead, Head, LinearHead, interpolate
from serving.onnx import export as onnx_export
from tests.petl_vit.backbones import relative

CLASSES, WIDTH, SHARED = 5, 12, 7


def head_of(kind: type[Head], seed: int) -> Head:
    generator = torch.Generator().manual_seed(seed)
    if kind is LinearHead:
        return LinearHead.init(CLASSES, WIDTH, generator)
    linear = LinearHead.init(CLASSES, SHARED, generator)
    projection = torch.randn(WIDTH, SHARED, generator=generator)
    return ClipHead(projection=projection, weight=linear.weight, bias=linear.bias)


@pytest.mark.parametrize("kind", [LinearHead, ClipHead])
def test_rows_with_heads_of_their_own_are_each_as_alone(kind: type[Head]) -> None:
    base, one, two = (head_of(kind, seed) for seed in range(3))
    mixtures = [[], [(one, 0.3)], [(one, 0.5), (two, 0.4)], [(two, 1.0)]]
    heads = [interpolate(base, terms) for terms in mixtures]
    features = torch.randn(len(heads), WIDTH, generator=torch.Generator().manual_seed(9))

    found = onnx_export.logits(base, torch.stack([onnx_export.flat(head) for head in heads]), features)

    for z, head, feature in zip(found, heads, features, strict=True):
        assert relative(z, head.logits(feature.unsqueeze(0))[0]) <= 1e-6


def test_what_does_not_fit_into_one_file_is_refused() -> None:
    module = nn.Linear(2**15, 2**15, device="meta")

    with pytest.raises(Unsupported, match=r"4\.0 GiB") as caught:
        onnx_export.check_size(module)
    assert "--backend onnx" in str(caught.value)
