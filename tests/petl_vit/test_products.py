"""The frozen products in fp32 and in bf16, plain or packed, and which parameters are narrowed for them."""

import pytest
import torch
from torch import Tensor

from petl_vit import products
from petl_vit.edits import Dense, LowRank, fold
from petl_vit.precision import Precision
from petl_vit.products import DenseParams, convolution, in_bf16, in_precision, linear, part_of_linear
from tests.petl_vit.backbones import FAMILIES, family, relative

ULP = 2**-8
"""The relative distance of neighbouring bf16 numbers: what rounding may change of a result."""
BETWEEN = {"norm", "norm1", "norm2", "norm_pre", "fc_norm", "ls1", "ls2"}
"""Modules of timm's whose parameters act between products."""
EMBEDDINGS = {"cls_token", "reg_token", "pos_embed", "attn_pool.latent"}

needs_packing = pytest.mark.skipif(
    not products.packs(), reason="this CPU and PyTorch do not multiply by packed bf16 weights"
)


def between_products(name: str) -> bool:
    return name in EMBEDDINGS or name.startswith("rotary.") or name.split(".")[-2] in BETWEEN


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights stay plain tensors, as on a CPU without bf16."""
    monkeypatch.setattr(products, "packs", lambda: False)


def params_of(inner: int = 96, outer: int = 64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outer, inner, generator=generator) / inner**0.5
    return {"fc.weight": weight, "fc.bias": torch.randn(outer, generator=generator)}


def inputs(rows: int, inner: int = 96) -> Tensor:
    return torch.randn(rows, inner, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", FAMILIES)
def test_bf16_narrows_the_products_and_nothing_else(kind: str, plain: None) -> None:
    vit, _ = family(kind)
    fast = vit.in_precision(Precision.BF16)
    for name, parameter in fast.params.items():
        kept = between_products(name)
        assert parameter.dtype == (torch.float32 if kept else torch.bfloat16), name
        assert parameter is vit.params[name] or not kept, name
    assert (fast.dtype, fast.product_dtype) == (torch.float32, torch.bfloat16)
    assert vit.product_dtype == torch.float32


@pytest.mark.parametrize("kind", FAMILIES)
def test_biases_are_narrowed_only_when_they_are_asked_for(kind: str) -> None:
    vit, _ = family(kind)
    found = in_bf16(vit.params, biases=False)
    narrow = {name for name, parameter in found.items() if parameter.dtype == torch.bfloat16}
    assert narrow == {n for n in vit.params if n.endswith(".weight") and not between_products(n)}


def test_fp32_leaves_every_parameter_as_it_is() -> None:
    vit, _ = family("plain")
    found = in_precision(vit.params, Precision.FP32)
    assert all(found[name] is parameter for name, parameter in vit.params.items())


def test_a_plain_bf16_product_is_that_of_the_rounded_factors(plain: None) -> None:
    params, x = params_of(), inputs(7)
    found = linear(in_precision(params, Precision.BF16), "fc", x)
    rounded = {name: p.bfloat16().double() for name, p in params.items()}
    expected = x.bfloat16().double() @ rounded["fc.weight"].T + rounded["fc.bias"]
    assert found.dtype == torch.bfloat16
    assert relative(found.double(), expected) <= ULP


@needs_packing
@pytest.mark.parametrize("biased", [True, False])
def test_packed_and_plain_bf16_products_agree(biased: bool) -> None:
    params, x = params_of(), inputs(33)
    params = params if biased else {"fc.weight": params["fc.weight"]}
    packed = in_precision(params, Precision.BF16)
    assert packed["fc.weight"].is_mkldnn
    expected = linear(in_bf16(params), "fc", x)
    assert (
        relative(linear(packed, "fc", x).float(), expected.float()) <= 2 * ULP
    )  # a packed product adds its bias unrounded
    part = part_of_linear(packed, "fc", x, slice(8, 24))
    assert torch.equal(part, linear(packed, "fc", x)[:, 8:24])
    assert relative(part.float(), part_of_linear(in_bf16(params), "fc", x, slice(8, 24)).float()) <= 2 * ULP


@needs_packing
@pytest.mark.parametrize("inner", [192, 768])
def test_a_row_of_a_packed_product_is_the_same_in_any_company(inner: int) -> None:
    packed = in_precision(params_of(inner, 256), Precision.BF16)
    x = inputs(64, inner)
    together = linear(packed, "fc", x)
    for rows in (1, 2, 5, 17):
        assert torch.equal(linear(packed, "fc", x[:rows]), together[:rows]), rows


def test_a_convolution_in_bf16_is_that_of_the_rounded_factors() -> None:
    vit, _ = family("plain")
    size, patch = vit.arch.image_size, vit.arch.patch_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    found = convolution(vit.in_precision(Precision.BF16).params, "patch_embed.proj", images, patch)
    rounded = {
        name: vit.params[name].bfloat16().float() for name in vit.params if name.startswith("patch_embed.")
    }
    expected = convolution(rounded, "patch_embed.proj", images.bfloat16().float(), patch)
    assert found.dtype == torch.bfloat16
    assert relative(found.float(), expected) <= ULP


def test_dense_parameters_are_the_rounded_ones_in_float32_each_made_once() -> None:
    params = params_of()
    found = DenseParams(in_precision(params, Precision.BF16))
    assert found.keys() == params.keys()
    assert torch.equal(found["fc.weight"], params["fc.weight"].bfloat16().float())
    assert found["fc.bias"].dtype == torch.float32
    assert found["fc.weight"] is found["fc.weight"]


@pytest.mark.parametrize("kind", ["low rank", "dense"])
def test_weights_fold_in_float32_and_are_multiplied_in_bf16(kind: str) -> None:
    params, x = params_of(), inputs(9)
    generator = torch.Generator().manual_seed(5)
    edit = (
        LowRank(
            site="fc", a=torch.randn(96, 4, generator=generator), b=torch.randn(4, 64, generator=generator)
        )
        if kind == "low rank"
        else Dense(name="fc.weight", tensor=torch.randn(64, 96, generator=generator) / 10)
    )
    fast = in_precision(params, Precision.BF16)
    folded = fold(fast, [(edit, 0.5)])
    assert not folded["fc.weight"].is_mkldnn
    assert folded["fc.weight"].dtype == torch.bfloat16
    start = DenseParams(fast)
    expected = fold({name: start[name] for name in start}, [(edit, 0.5)])["fc.weight"]
    assert torch.equal(folded["fc.weight"], expected.bfloat16())
    exact = linear(fold(params, [(edit, 0.5)]), "fc", x)
    assert relative(linear(folded, "fc", x).float(), exact) <= 2 * ULP
