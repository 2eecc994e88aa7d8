"""What the backbone computes in, checked against fp32 before anything is answered."""

import logging
import math

import pytest
import torch

from model_store.resolution.loading import Loader
from model_store.resolution.precision import TOLERANCE, check, checked, checked_loader, probes, subjects
from model_store.resolution.versions import ResolvedRoute, resolve
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit import methods
from petl_vit.device import has_bf16
from petl_vit.errors import InvalidInput
from petl_vit.precision import Precision
from petl_vit.products import is_weight
from tests.model_store.real import Real

pytestmark = pytest.mark.numerics

CPU = torch.device("cpu")


def far_keys(tensors: dict[str, torch.Tensor]) -> None:
    """Moves all keys far away by the same, which attention ignores.

    In fp32 a little of them is lost, in bf16 all.
    """
    for name, tensor in tensors.items():
        if name.endswith("attn.qkv.bias"):
            width = len(tensor) // 3
            tensor[width : 2 * width] += 2000


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    """A store with an adapter of every method, and one that bf16 cannot compute."""
    made = Real(Store.open(str(tmp_path_factory.mktemp("store"))))
    for seed, method in enumerate(methods.names()):
        made.publish(method, seed=seed)
    made.publish("bitfit", name="exploding", seed=5, change=far_keys)
    return made


def resolved(real: Real, text: str) -> ResolvedRoute:
    return resolve(parse_route(text), task="zoo", store=real.store, backbone_digest=real.backbone.digest)


def chosen(real: Real, setting: Precision, *routes: str) -> tuple[Precision, Loader]:
    asked = (resolved(real, text) for text in ("base", *routes))
    return checked_loader(setting, CPU, real.store, real.backbone, asked)


@pytest.fixture
def bf16_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_store.resolution.precision.has_bf16", lambda device: True)


def test_auto_is_what_the_hardware_has(real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    for there, expected, dtype in (
        (False, Precision.FP32, torch.float32),
        (True, Precision.BF16, torch.bfloat16),
    ):
        monkeypatch.setattr("model_store.resolution.precision.has_bf16", lambda device, there=there: there)
        precision, loader = chosen(real, Precision.AUTO, "lora, ssf")
        assert precision is expected
        assert loader.vit(48).product_dtype == dtype


def test_the_hardware_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    for avx, amx in ((False, False), (True, False), (False, True)):
        for name, there in zip(names, (avx, amx), strict=True):
            monkeypatch.setattr(torch.cpu, name, lambda there=there: there, raising=False)
        assert has_bf16(CPU) is (avx or amx)


def test_fp32_is_taken_as_it_is(real: Real, bf16_here: None) -> None:
    precision, loader = chosen(real, Precision.FP32, "exploding")
    assert precision is Precision.FP32
    assert loader.vit(48).dtype == torch.float32


def test_heads_and_edits_stay_in_fp32_beside_products_in_bf16(real: Real) -> None:
    _, loader = chosen(real, Precision.BF16)
    for method in methods.names():
        (term,) = resolved(real, method.replace("_", "-")).terms()
        adapter = loader.adapter(term)
        heads = [*adapter.head.tensors().values(), *adapter.base_head.tensors().values()]
        assert {tensor.dtype for tensor in heads} == {torch.float32}
        products = {e.tensor.dtype for e in adapter.edits.dense if is_weight(e.name, e.tensor)}
        assert products <= {torch.bfloat16}
        if not adapter.edits.dense:
            assert {tensor.dtype for tensor in adapter.edits.all_tensors()} <= {torch.float32}


def test_bf16_is_refused_where_a_route_explodes_in_it(real: Real) -> None:
    with pytest.raises(InvalidInput, match=r"bf16 changes logits of .*exploding.* by") as caught:
        chosen(real, Precision.BF16, "lora", "exploding, lora")

    assert caught.value.field == "precision"


def test_auto_is_fp32_where_a_route_explodes_in_bf16(
    real: Real, bf16_here: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="model_store.resolution.precision"):
        precision, loader = chosen(real, Precision.AUTO, "exploding, lora")

    assert precision is Precision.FP32
    assert loader.vit(48).dtype == torch.float32
    assert "bf16 changes logits of" in caplog.text


def test_a_fall_back_is_told_in_one_sentence(real: Real, bf16_here: None) -> None:
    notes = list[str]()
    route = resolve(
        parse_route("lora, exploding"), task="zoo", store=real.store, backbone_digest=real.backbone.digest
    )
    loader = checked(Precision.AUTO, real.loader, subjects(route.members), notes.append)

    assert loader is real.loader
    (note,) = notes
    assert note.startswith("computing in fp32: bf16 changes logits of zoo/exploding:1 by ")


def test_members_are_compared_once(real: Real) -> None:
    routes = [resolved(real, text) for text in ("lora, ssf", "lora", "0.5*lora, ssf, base")]
    names = [subject.name for subject in subjects(m for route in routes for m in route.members)]
    assert names == ["zoo/lora:1", "zoo/ssf:1", "0.5*zoo/lora:1", "zoo/base"]


@pytest.mark.parametrize("found", [2 * TOLERANCE, math.inf, math.nan])
def test_too_large_a_difference_and_no_number_are_refused(found: float) -> None:
    check(TOLERANCE, "lora")
    with pytest.raises(InvalidInput):
        check(found, "lora")


def test_probes_are_always_the_same_and_differ() -> None:
    first, second = probes(32), probes(32)
    assert first.equal(second)
    assert first.shape[1:] == (3, 32, 32)
    assert not any(first[0].equal(other) for other in first[1:])
