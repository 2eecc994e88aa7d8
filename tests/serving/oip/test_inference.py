"""ModelInfer over a real channel: how images are sent, what is answered."""

import struct
from typing import Any

import grpc
import numpy as np
import pytest

from petl_vit.preprocess import preprocess
from serving.engine.priority import Priority
from tests.serving.oip.requests import images, infer, numbers, parameters, raw, refusal, request
from tests.serving.triton_client import service_pb2_grpc
from tests.serving.triton_client import tritonclient as triton
from tests.serving.world import (
    COLOURS,
    PREPROCESS,
    SHAPES,
    SIZE,
    Running,
    World,
    encoded,
    pixels,
    until,
)

InferenceServerException = triton.InferenceServerException


@pytest.mark.parametrize(
    "model", ["lora", "0.6*lora, ssf", "vote(lora, ssf, bitfit)", "best", "0.5*lora + 0.5*full"]
)
def test_it_answers_what_the_classifier_answers(client: Any, running: Running, model: str) -> None:
    with running.client() as classifier:
        expected = classifier.classify(
            [encoded(1), encoded(2)], route=model, task="shapes", probabilities=True
        )
    result = infer(client, model, images(1, 2), parameters={"task": "shapes"}, request_id="mine")

    answered = [list(one.probabilities) for one in expected.results]
    np.testing.assert_allclose(result.as_numpy("probabilities"), answered, atol=1e-6)
    best = [one.top[0] for one in expected.results]
    assert [label.decode() for label in result.as_numpy("label")] == [one.class_name for one in best]
    assert list(result.as_numpy("class_index")) == [one.class_index for one in best]
    for name in ("agreement", "entropy", "mutual_information"):
        said = [getattr(one, name) for one in expected.results]
        np.testing.assert_allclose(result.as_numpy(name), said, atol=1e-6)
    response = result.get_response()
    assert (response.model_name, response.id) == (model, "mine")
    assert response.parameters["route"].string_param == expected.route
    assert response.parameters["digests"].string_param.split(",") == [a.digest for a in expected.adapters]
    assert response.parameters["adapters"].string_param.split(",") == [a.name for a in expected.adapters]
    assert not any(output.HasField("contents") for output in response.outputs)


def test_a_prediction_id_takes_its_label(client: Any, running: Running) -> None:
    result = infer(client, "shapes/best")
    told = result.as_numpy("prediction_id")[0].decode(), result.as_numpy("label")[0].decode()
    with running.client() as classifier:
        answer = classifier.feedback([told])

    assert answer.results[0].correct


def test_every_way_to_send_an_image_answers_alike(client: Any, stub: Any) -> None:
    data, array = encoded(3), pixels(3)
    ready = preprocess(data, PREPROCESS).numpy()
    behind_length = struct.pack("<I", len(data)) + data
    sent = [
        raw(behind_length, [1]),
        raw(behind_length, [1, 1]),
        raw(data, [1, 1]),
        raw(array.tobytes(), [1, *array.shape], "UINT8"),
        raw(ready.tobytes(), [1, 3, SIZE, SIZE], "FP32"),
        *(
            request(inputs=[{"name": "images", "datatype": kind, "shape": shape, "contents": contents}])
            for kind, shape, contents in (
                ("BYTES", [1, 1], {"bytes_contents": [data]}),
                ("UINT8", [1, *array.shape], {"uint_contents": array.ravel().tolist()}),
                ("FP32", [1, 3, SIZE, SIZE], {"fp32_contents": ready.ravel().tolist()}),
            )
        ),
    ]
    expected = infer(client, "shapes/lora", images(3)).as_numpy("probabilities")
    for one in sent:
        np.testing.assert_allclose(numbers(stub.ModelInfer(one), "probabilities"), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_lone_image_may_stand_without_its_length(stub: Any, kind: str) -> None:
    assert numbers(stub.ModelInfer(raw(encoded(0, kind), [1, 1])), "class_index").shape == (1,)


def test_only_what_is_asked_for_is_answered_in_that_order(client: Any) -> None:
    wanted = [triton.InferRequestedOutput(name) for name in ("entropy", "label")]
    response = infer(client, "shapes/lora", images(1, 2), outputs=wanted).get_response()

    assert [output.name for output in response.outputs] == ["entropy", "label"]
    assert len(response.raw_output_contents) == 2


def test_the_best_classes_come_as_triton_writes_them_or_as_columns(client: Any) -> None:
    wanted = [triton.InferRequestedOutput("probabilities", class_count=2)]
    texts = infer(client, "shapes/best", images(1, 2), outputs=wanted).as_numpy("probabilities")
    columns = infer(client, "shapes/best", images(1, 2), parameters={"top_k": 2})

    assert texts.shape == columns.as_numpy("label").shape == columns.as_numpy("class_index").shape == (2, 2)
    for row in range(2):
        for place in range(2):
            probability, index, name = texts[row, place].decode().split(":")
            assert int(index) == columns.as_numpy("class_index")[row, place]
            assert name == columns.as_numpy("label")[row, place].decode() == SHAPES[int(index)]
            assert float(probability) == pytest.approx(
                columns.as_numpy("probabilities")[row, int(index)], abs=1e-5
            )


@pytest.mark.parametrize(
    ("model", "version", "given", "resolved", "answered"),
    [
        ("shapes/lora", "", {}, "lora:2", "2"),
        ("shapes/lora", "1", {}, "lora:1", "1"),
        ("shapes/lora", "prod", {}, "lora:1", "1"),
        ("shapes/lora", "1", {"alpha": 0.5}, "0.5*lora:1", "1"),
        ("shapes/lora", "", {"alpha": "0.5"}, "0.5*lora:2", "2"),
        ("0.5*shapes/lora", "", {"alpha": 0.5}, "0.25*lora:2", "2"),
        ("shapes/lora", "", {"alpha": 2, "extrapolate": True}, "2*lora:2", "2"),
        ("0.2..1*shapes/lora", "", {"alpha": 0.5}, "0.1..0.5*lora:2", "2"),
        ("ignored", "", {"route": "0.6[1]*shapes/lora", "alpha": 0.5}, "0.3[1]*lora:2", "2"),
        ("ignored", "", {"route": "lora, ssf", "task": "shapes"}, "lora:2, ssf:1", ""),
        ("ignored", "", {"adapter": "shapes/ssf"}, "ssf:1", "1"),
        ("shapes/best", "", {"no_such_parameter": 1}, "lora:2, ssf:1, 0.5*bitfit:1", ""),
        ("best", "", {"task": "shapes"}, "lora:2, ssf:1, 0.5*bitfit:1", ""),
        ("shapes/base", "", {"triton_enable_empty_final_response": True}, "base", ""),
    ],
)
def test_names_versions_and_parameters_make_the_route(
    stub: Any, model: str, version: str, given: dict[str, Any], resolved: str, answered: str
) -> None:
    response = stub.ModelInfer(request(model, model_version=version, parameters=parameters(**given)))

    assert response.parameters["route"].string_param == resolved
    assert response.model_version == answered
    assert response.model_name == model


def test_a_task_of_other_classes_answers_with_them(client: Any) -> None:
    assert infer(client, "colours/lora").as_numpy("probabilities").shape == (1, len(COLOURS))


def test_the_domain_reaches_the_metrics(client: Any, running: Running) -> None:
    before = running.value("corolla_predictions_total", route="shapes/best", domain="street")
    infer(client, "shapes/best", parameters={"domain": "street"})

    assert running.value("corolla_predictions_total", route="shapes/best", domain="street") == before + 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, 1), ({"priority": 1}, 2), ({"priority": 3}, 0), ({"priority": "high"}, 2), ({"client": "a"}, 1)],
)
def test_priority_and_client_reach_the_queue(
    stub: Any, running: Running, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], expected: int
) -> None:
    seen, submit = [], running.server.service.batcher.submit

    async def look(*args: Any, **options: Any) -> Any:
        seen.append(options)
        return await submit(*args, **options)

    monkeypatch.setattr(running.server.service.batcher, "submit", look)
    stub.ModelInfer(request(parameters=parameters(**given)))

    assert seen[0]["priority"] is Priority(expected)
    assert seen[0]["client"].startswith("client:a" if "client" in given else "peer:")


@pytest.mark.parametrize("given", [{"timeout": 50_000}, {"deadline": 0.05}, {"deadline": "0.05"}])
def test_a_deadline_in_the_parameters_is_kept(world: World, given: dict[str, Any]) -> None:
    with Running(world.settings()) as running, grpc.insecure_channel(running.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        release = running.hold_engine()
        first = stub.ModelInfer.future(request())
        until(lambda: running.server.service.batcher.oldest_age_s > 0)
        second = stub.ModelInfer.future(request(parameters=parameters(**given)))
        until(lambda: second.done() or running.value("corolla_queue_rows") == 1)
        age_s = running.server.service.batcher.oldest_age_s
        until(lambda: running.server.service.batcher.oldest_age_s > age_s + 0.1)
        release.set()
        assert first.result().outputs
        assert refusal(second.result)[0] == "DEADLINE_EXCEEDED"
