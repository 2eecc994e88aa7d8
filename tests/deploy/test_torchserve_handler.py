"""The handler between a worker of TorchServe's and the engine; no Java."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from petl_vit.errors import NotFound
from serving.torchserve.counts import counters
from serving.torchserve.packaging import FORMAT
from tests.serving.world import SHAPES, World, encoded

pytest.importorskip("ts", reason="the extra `torchserve` is not installed")

from ts.context import Context, RequestProcessor
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.metrics.metric_type_enum import MetricTypes
from ts.utils.util import PredictionException

from deploy.torchserve.handler import Handler, _show_only

# TorchServe leaves its metrics file open.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

ROW = {"image": bytearray(encoded(0)), "route": bytearray(b"lora"), "task": bytearray(b"shapes")}
BAD = {**ROW, "route": bytearray(b"nowhere")}
METRICS = "model_metrics:\n  counter:\n    - {name: Theirs, unit: count, dimensions: []}\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("world") / "store")


def context(world: World, folder: Path, **changes: object) -> Context:
    """A worker's, over a metrics.yaml that knows nothing of ours."""
    (folder / "metrics.yaml").write_text(METRICS)
    metrics = MetricsCacheYamlImpl(str(folder / "metrics.yaml"))
    metrics.initialize_cache()
    chosen = {"format": FORMAT, "backbone": world.backbone.digest, "store": str(world.folder), "threads": 1}
    machine = {"device": "cpu", "precision": "fp32"}
    settings = {**chosen, **machine, "prediction_key_file": str(folder / "key"), **changes}
    return Context("corolla", str(folder), {}, 32, None, "0.12.0", True, metrics, {"handler": settings})


@pytest.fixture(scope="module")
def made(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Handler, Context]]:
    handler, given = Handler(), context(world, tmp_path_factory.mktemp("worker"))
    handler.initialize(given)
    yield handler, given
    handler.engine.close()


def answers(made: tuple[Handler, Context], *rows: dict[str, Any]) -> list[Any]:
    """What the handler makes of one batch of TorchServe's."""
    handler, given = made
    given.request_processor = [RequestProcessor({}) for _ in rows]
    return [json.loads(answer) for answer in handler.handle(rows, given)]


def test_every_request_of_a_batch_gets_its_answer(made: tuple[Handler, Context]) -> None:
    first, second = answers(made, ROW, {**ROW, "route": bytearray(b"ssf")})

    assert (first["route"], second["route"]) == ("lora:2", "ssf:1")
    assert {score["class_name"] for score in first["results"][0]["top"]} == set(SHAPES)


def test_a_bad_request_in_a_batch_has_its_own_status(made: tuple[Handler, Context]) -> None:
    good, bad, unread = answers(made, ROW, BAD, {})

    assert "results" in good
    assert (bad["error"]["code"], unread["error"]["field"]) == ("NOT_FOUND", "route")
    given = made[1]
    assert [given.get_response_status(i)[0] for i in range(3)] == [200, 404, 400]
    assert given.get_response_content_type(0) == "application/json"


def test_a_bad_request_alone_has_the_status_that_grpc_shows(made: tuple[Handler, Context]) -> None:
    with pytest.raises(PredictionException) as raised:
        answers(made, BAD)

    assert raised.value.error_code == 404
    assert json.loads(raised.value.message)["error"]["code"] == "NOT_FOUND"


def test_an_error_of_ours_is_not_shown(
    made: tuple[Handler, Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> float:
        raise RuntimeError("secret")

    monkeypatch.setattr("deploy.torchserve.handler.request_of", broken)

    first, second = answers(made, ROW, ROW)

    assert first["error"]["code"] == second["error"]["code"] == "INTERNAL"
    assert "secret" not in json.dumps([first, second])


def test_counters_are_made_where_the_servers_own_file_lacks_them(made: tuple[Handler, Context]) -> None:
    known = made[1].metrics.cache[MetricTypes.COUNTER]
    assert {name for name, _ in counters()} < set(known)
    assert "Theirs" in known


def test_counts_are_written_as_torchserve_reads_them(
    made: tuple[Handler, Context], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="ts.metrics.caching_metric")
    answers(made, {**ROW, "route": bytearray(b"best")})

    lines = [message for message in caplog.messages if message.startswith("[METRICS]corolla_")]
    confidence = "[METRICS]corolla_prediction_confidence_ratio_count.Count:1"
    labels = "|#route:shapes/best,domain:unset|#type:COUNTER"
    assert [line for line in lines if line.startswith(confidence) and labels in line]


def test_an_archive_for_another_backbone_does_not_load(world: World, tmp_path: Path) -> None:
    given = context(world, tmp_path, backbone="0" * 64, backbone_name="vit-b")
    with pytest.raises(NotFound, match="the archive was made for backbone vit-b"):
        Handler().initialize(given)


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("4,6", "6"), ("GPU-a,GPU-b", "GPU-b")])
def test_a_worker_sees_the_gpu_it_was_given(
    monkeypatch: pytest.MonkeyPatch, before: str | None, after: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that it is put back afterwards
        os.environ.pop("CUDA_VISIBLE_DEVICES")

    _show_only(1)

    assert os.environ["CUDA_VISIBLE_DEVICES"] == after
