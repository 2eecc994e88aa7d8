"""What a service computes in, checked against fp32 before anything is served."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model_store.resolution.precision import TOLERANCE
from petl_vit.errors import InvalidInput
from serving.server import Server
from serving.service import Service
from tests.serving.world import METHODS, Running, World, encoded


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
                for family in running.server.service.metrics.registry.collect()
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
    Service(own_world.settings(precision="bf16")).close()  # no route names it
    own_world.put_route("risky", "exploding, lora")

    with pytest.raises(InvalidInput, match=r"bf16 changes logits of .*exploding.* by") as caught:
        Server(own_world.settings(precision="bf16"))

    assert caught.value.field == "precision"
    assert caught.value.remedy == "use --precision fp32"


def test_a_damaged_adapter_in_a_named_route_does_not_stop_the_start(
    own_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    own_world.adapter_file("shapes", "ssf", 1).write_bytes(b"damaged")

    with Running(own_world.settings(precision="bf16")) as running, running.client() as client:
        assert client.classify([encoded(0)], route="lora", task="shapes").route == "lora:2"

    assert "shapes/ssf:1 cannot be loaded" in caplog.text


def test_a_setting_without_effect_on_this_machine_is_said(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    Service(world.settings()).close()
    Service(world.settings(cache_bytes=0)).close()  # as `corolla predict` sets it over a folder
    assert "no effect" not in caplog.text

    Service(world.settings(device_bytes=2**30, bf16_fallback="refuse")).close()

    assert "--device-bytes has no effect here" in caplog.text
    assert "--bf16-fallback has no effect here: the backbone computes in fp32" in caplog.text


def test_a_server_that_starts_again_reads_tensors_from_its_cache(world: World, tmp_path: Path) -> None:
    settings = world.settings(cache=str(tmp_path / "cache"), cache_bytes=2**26)
    for _ in range(2):
        service = Service(settings)
        assert service.store.place.cache is not None
        service.close()
    kept = {path.stem for path in (tmp_path / "cache").glob("*.safetensors")}
    assert service.loader.record.digest in kept


def test_adapters_are_bounded_by_the_host_bytes_that_are_set(world: World) -> None:
    for host_bytes, bound in ((None, 2 * 2**30), (2**20, 2**20)):
        service = Service(world.settings(host_bytes=host_bytes))
        assert service.adapter_cache.max_bytes == bound
        service.close()
