"""What the backbone computes in, checked against fp32 before anything is served."""

import logging
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model_store.loading import Loader
from petl_vit.errors import InvalidInput
from serving.catalog import Catalog
from serving.precision import TOLERANCE, Precision, check, checked_loader, has_bf16, probes
from serving.server import Server
from tests.serving.world import METHODS, Running, World, encoded

pytestmark = pytest.mark.numerics

CPU = torch.device("cpu")


def chosen(world: World, setting: Precision) -> tuple[Precision, Loader]:
    catalog = Catalog(world.store, world.backbone.digest)
    return checked_loader(setting, CPU, world.store, world.backbone, catalog)


def publish_exploding(world: World) -> None:
    """An adapter that bf16 cannot compute: keys are all moved far away by the same, which attention ignores.

    In fp32 a little of them is lost, in bf16 all.
    """

    def far_keys(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if name.endswith("attn.qkv.bias"):
                width = len(tensor) // 3
                tensor[width : 2 * width] += 2000

    world.publish("shapes", "bitfit", seed=5, name="exploding", change=far_keys)


@pytest.fixture
def bf16_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.precision.has_bf16", lambda device: True)


def test_auto_is_what_the_hardware_has(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for there, expected, dtype in (
        (False, Precision.FP32, torch.float32),
        (True, Precision.BF16, torch.bfloat16),
    ):
        monkeypatch.setattr("serving.precision.has_bf16", lambda device, there=there: there)
        precision, loader = chosen(world, Precision.AUTO)
        assert precision is expected
        assert loader.vit(32).dtype == dtype


def test_the_hardware_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    for avx, amx in ((False, False), (True, False), (False, True)):
        for name, there in zip(names, (avx, amx), strict=True):
            monkeypatch.setattr(torch.cpu, name, lambda there=there: there, raising=False)
        assert has_bf16(CPU) is (avx or amx)


def test_fp32_is_taken_as_it_is(world: World, bf16_here: None) -> None:
    precision, loader = chosen(world, Precision.FP32)
    assert precision is Precision.FP32
    assert loader.vit(32).dtype == torch.float32


def test_heads_stay_in_fp32_beside_a_bf16_backbone(world: World) -> None:
    _, loader = chosen(world, Precision.BF16)
    for name in METHODS:
        (term,) = world.resolve(name).terms()
        adapter = loader.adapter(term)
        heads = [*adapter.head.tensors().values(), *adapter.base_head.tensors().values()]
        assert {tensor.dtype for tensor in heads} == {torch.float32}
        assert {tensor.dtype for tensor in adapter.edits.all_tensors()} <= {torch.bfloat16}


def log_scores(running: Running, route: str) -> NDArray[np.float64]:
    """Log-probabilities [n, C] of twelve images."""
    with running.client() as client:
        images = [encoded(seed) for seed in range(12)]
        answer = client.classify(images, route=route, task="shapes", probabilities=True)
    return np.log([list(result.probabilities) for result in answer.results])


def test_a_bf16_server_answers_as_an_fp32_one_does(world: World) -> None:
    with (
        Running(world.settings(precision="bf16")) as fast,
        Running(world.settings(precision="fp32")) as exact,
    ):
        for running, precision in ((fast, "bf16"), (exact, "fp32")):
            (build,) = (
                sample.labels
                for family in running.server.core.metrics.registry.collect()
                for sample in family.samples
                if sample.name == "corolla_build_info"
            )
            assert build["precision"] == precision
        same, count = 0, 0
        for route in ("base", "best", *METHODS):
            ours, theirs = (
                z - z.mean(axis=1, keepdims=True) for z in (log_scores(r, route) for r in (fast, exact))
            )
            assert np.abs(ours - theirs).max() <= 3 * TOLERANCE * np.abs(theirs).max(), route
            same += int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
            count += len(ours)
        assert same >= 0.95 * count


def test_bf16_is_refused_where_a_named_route_explodes_in_it(own_world: World) -> None:
    publish_exploding(own_world)
    assert chosen(own_world, Precision.BF16)[0] is Precision.BF16, "no route names it"
    own_world.put_route("risky", "exploding, lora")

    with pytest.raises(InvalidInput, match=r"bf16 changes logits of .*exploding.* by") as caught:
        Server(own_world.settings(precision="bf16"))

    assert caught.value.field == "precision"
    assert caught.value.remedy == "start the server with --precision fp32"


def test_auto_is_fp32_where_a_named_route_explodes_in_bf16(
    own_world: World, bf16_here: None, caplog: pytest.LogCaptureFixture
) -> None:
    publish_exploding(own_world)
    own_world.put_route("risky", "exploding, lora")

    with caplog.at_level(logging.WARNING, logger="serving.precision"):
        precision, loader = chosen(own_world, Precision.AUTO)

    assert precision is Precision.FP32
    assert loader.vit(32).dtype == torch.float32
    assert "bf16 changes logits of" in caplog.text


def test_a_damaged_adapter_in_a_named_route_does_not_stop_the_start(
    own_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    own_world.adapter_file("shapes", "ssf", 1).write_bytes(b"damaged")

    with Running(own_world.settings(precision="bf16")) as running, running.client() as client:
        assert client.classify([encoded(0)], route="lora", task="shapes").route == "lora:2"

    assert "shapes/ssf:1 cannot be loaded" in caplog.text


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
