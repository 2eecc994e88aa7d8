"""inference.GRPCInferenceService over a real channel, by NVIDIA's own client."""

import queue
import struct
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from numpy.typing import NDArray

from petl_vit.preprocess import preprocess
from protos.inference import grpc_service_pb2 as ours
from serving.engine.priority import Priority
from serving.oip.servicer import SERVICE
from serving.oip.tensors import COLUMNS
from tests.serving.triton_client import model_config_pb2, service_pb2, service_pb2_grpc
from tests.serving.triton_client import tritonclient as triton
from tests.serving.world import (
    COLOURS,
    PREPROCESS,
    SHAPES,
    SIZE,
    WAIT_S,
    Running,
    World,
    encoded,
    pixels,
    until,
)

InferenceServerException = triton.InferenceServerException


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.address) as client:
        yield client


@pytest.fixture(scope="module")
def stub(running: Running) -> Iterator[Any]:
    """NVIDIA's messages without NVIDIA's client, for requests that it would not make."""
    with grpc.insecure_channel(running.address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def tensor(values: NDArray[Any], datatype: str) -> Any:
    made = triton.InferInput("images", list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def images(*seeds: int) -> Any:
    return tensor(np.array([encoded(seed) for seed in seeds or (0,)], object), "BYTES")


def infer(client: Any, model: str, *inputs: Any, **options: Any) -> Any:
    return client.infer(model, list(inputs or (images(),)), **options)


def request(model: str = "shapes/lora", **changes: Any) -> Any:
    """A request as it is on the wire; typed contents of one image."""
    chosen: dict[str, Any] = {
        "model_name": model,
        "inputs": [
            {
                "name": "images",
                "datatype": "BYTES",
                "shape": [1],
                "contents": {"bytes_contents": [encoded(0)]},
            }
        ],
    }
    return service_pb2.ModelInferRequest(**(chosen | changes))


def raw(data: bytes, shape: list[int], datatype: str = "BYTES", **changes: Any) -> Any:
    described = {"name": "images", "datatype": datatype, "shape": shape}
    return request(inputs=[described], raw_input_contents=[data], **changes)


def parameters(**values: Any) -> dict[str, Any]:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return {name: service_pb2.InferParameter(**{kinds[type(v)]: v}) for name, v in values.items()}


def numbers(response: Any, name: str) -> NDArray[Any]:
    position = [output.name for output in response.outputs].index(name)
    dtype = "<i8" if response.outputs[position].datatype == "INT64" else "<f4"
    return np.frombuffer(response.raw_output_contents[position], dtype).reshape(
        list(response.outputs[position].shape)
    )


def refusal(call: Callable[[], Any]) -> tuple[str, str | None, str]:
    """Code, field and text of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return described(caught.value)


def described(error: Any) -> tuple[str, str | None, str]:
    status, field = rpc_status.from_call(error), None
    for detail in status.details if status is not None else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            field = bad.field_violations[0].field
    assert "Traceback" not in error.details()
    return error.code().name, field, error.details()


# The wire


def messages(descriptor: Any) -> Iterator[Descriptor]:
    for message in descriptor.values():
        if not message.GetOptions().map_entry:
            yield message
        yield from messages(message.nested_types_by_name)


OURS = {m.full_name: m for m in messages(ours.DESCRIPTOR.message_types_by_name)}
THEIRS = {
    m.full_name: m
    for module in (service_pb2, model_config_pb2)
    for m in messages(module.DESCRIPTOR.message_types_by_name)
}


def filled(kind: type[Message]) -> Message:
    """A message with something in every field."""
    message: Any = kind()
    for field in kind.DESCRIPTOR.fields:
        target = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            target["key"].MergeFrom(filled(type(target["key"])))
        elif field.message_type is not None:
            inner = target.add() if field.is_repeated else target
            inner.MergeFrom(filled(type(inner)))
        elif field.is_repeated:
            target.append(value_of(field))
        else:
            setattr(message, field.name, value_of(field))
    return message


def value_of(field: FieldDescriptor) -> Any:
    values = {
        FieldDescriptor.CPPTYPE_STRING: b"x" if field.type == FieldDescriptor.TYPE_BYTES else "x",
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_FLOAT: 1.5,
        FieldDescriptor.CPPTYPE_DOUBLE: 1.5,
    }
    return values.get(field.cpp_type, 7)


def class_of(name: str, modules: tuple[Any, ...]) -> type[Message]:
    first, *rest = name.removeprefix("inference.").split(".")
    kind = next(getattr(module, first) for module in modules if hasattr(module, first))
    for part in rest:
        kind = getattr(kind, part)
    return kind  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", OURS)
def test_every_message_is_one_of_tritons(name: str) -> None:
    mine = filled(class_of(name, (ours,)))
    theirs = class_of(name, (service_pb2, model_config_pb2)).FromString(mine.SerializeToString())

    assert str(theirs) == str(mine), "by name and value"
    assert type(mine).FromString(theirs.SerializeToString()) == mine


@pytest.mark.parametrize("name", OURS)
def test_every_field_has_the_name_number_and_type_of_tritons(name: str) -> None:
    theirs = {field.name: field for field in THEIRS[name].fields}
    for field in OURS[name].fields:
        other = theirs[field.name]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)


def test_every_method_is_one_of_tritons() -> None:
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    service = ours.DESCRIPTOR.services_by_name["GRPCInferenceService"]

    assert service.full_name == SERVICE == "inference.GRPCInferenceService"
    for method in service.methods:
        other = theirs[method.name]
        assert method.input_type.full_name == other.input_type.full_name
        assert method.output_type.full_name == other.output_type.full_name
        assert method.client_streaming == other.client_streaming


# What is there


def test_the_server_says_what_it_is(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    about = client.get_server_metadata()
    assert about.name == "corolla"
    assert "model_configuration" in about.extensions
    assert "statistics" not in about.extensions, "perf_analyzer would ask for them"


@pytest.mark.parametrize(
    "model", ["shapes/lora", "shapes/best", "shapes/base", "0.6*shapes/lora, shapes/ssf"]
)
def test_a_route_is_a_model_that_is_ready(client: Any, model: str) -> None:
    assert client.is_model_ready(model)
    about, config = client.get_model_metadata(model), client.get_model_config(model).config

    assert about.name == config.name == model
    assert [(i.name, i.datatype, list(i.shape)) for i in about.inputs] == [("images", "BYTES", [-1, 1])]
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [("images", 13, [1])]
    assert [o.name for o in about.outputs] == [o.name for o in config.output] == list(COLUMNS)
    assert list(about.outputs[0].shape) == [-1, len(SHAPES)]
    assert list(config.output[0].dims) == [len(SHAPES)]
    assert config.max_batch_size == 64
    assert not config.model_transaction_policy.decoupled


def test_an_adapter_has_versions_and_a_route_has_none(client: Any) -> None:
    assert list(client.get_model_metadata("shapes/lora").versions) == ["1", "2"]
    assert list(client.get_model_metadata("shapes/best").versions) == []
    assert client.is_model_ready("shapes/lora", "1")
    assert client.is_model_ready("shapes/lora", "prod")
    assert not client.is_model_ready("shapes/lora", "9")
    assert not client.is_model_ready("shapes/nothing")


def test_a_server_that_stops_is_not_ready(world: World) -> None:
    with Running(world.settings()) as running, triton.InferenceServerClient(running.address) as client:
        assert client.is_server_ready()
        running.server._serving = False
        assert not client.is_server_ready()
        assert not client.is_model_ready("shapes/lora")
        assert client.is_server_live()


# What is answered


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


# Bad requests


def one_input(**changes: Any) -> Any:
    chosen: dict[str, Any] = {"name": "images", "datatype": "BYTES", "shape": [1]}
    return request(inputs=[chosen | changes])


FLOATS = {"contents": {"fp32_contents": [0.0] * 12}}
GOOD = {"contents": {"bytes_contents": [encoded(0)]}}
TWO = {"contents": {"bytes_contents": [encoded(0), b"not an image"]}}
OTHER = "inputs[0].contents"
INVALID: list[tuple[str, Any, str, str]] = [
    ("no tensor", request(inputs=[]), "inputs", "0 tensors"),
    ("two tensors", request(inputs=[*request().inputs] * 2), "inputs", "2 tensors"),
    ("name", one_input(name="image", **GOOD), "inputs[0].name", "`images`"),
    ("datatype", one_input(datatype="FP16", **GOOD), "inputs[0].datatype", "FP32"),
    ("no datatype", one_input(datatype="", **GOOD), "inputs[0].datatype", "FP32"),
    ("no shape", one_input(shape=[], **GOOD), "inputs[0].shape", "[n, 1]"),
    ("empty", one_input(shape=[0]), "inputs[0].shape", "[0]"),
    ("negative", one_input(shape=[-1], **GOOD), "inputs[0].shape", "[-1]"),
    ("wide", one_input(shape=[1, 2], **GOOD), "inputs[0].shape", "[1, 2]"),
    ("layout", raw(b"x" * 12, [1, 3, 2, 2], "UINT8"), "inputs[0].shape", "[n, H, W, 3]"),
    ("deep", one_input(shape=[1] * 99, **GOOD), "inputs[0].shape", "..."),
    ("many", one_input(shape=[2**40], **GOOD), "inputs[0].shape", "at most 64"),
    ("size", one_input(datatype="FP32", shape=[1, 3, 2, 2], **FLOATS), "inputs[0].shape", "32"),
    ("no values", one_input(), f"{OTHER}.bytes_contents", "0 values"),
    ("few values", one_input(shape=[2], **GOOD), f"{OTHER}.bytes_contents", "1 values"),
    ("wrong list", one_input(**FLOATS), OTHER, "bytes_contents"),
    ("over", one_input(datatype="UINT8", shape=[1, 2, 2, 3], contents={"uint_contents": [256] * 12}),
     f"{OTHER}.uint_contents", "256"),
    ("both", request(raw_input_contents=[b"x"]), "raw_input_contents", "raw and typed"),
    ("two raw", request(raw_input_contents=[b"x"] * 2), "raw_input_contents", "2 contents"),
    ("short", raw(b"x" * 11, [1, 2, 2, 3], "UINT8"), "raw_input_contents[0]", "12"),
    ("huge", raw(b"x", [1, 2**62, 2**62, 3], "UINT8"), "raw_input_contents[0]", "1 bytes"),
    ("lengths", raw(encoded(0), [2]), "raw_input_contents[0]", "after its length"),
    ("bad image", one_input(shape=[2], **TWO), "images[1]", "JPEG"),
    ("raw image", raw(b"junk", [1]), "images[0]", "JPEG"),
    ("not finite", raw(np.full((1, 3, SIZE, SIZE), np.nan, "f4").tobytes(), [1, 3, SIZE, SIZE], "FP32"),
     "images[0]", "NaN"),
    ("no model", request(""), "model_name", "lora"),
    ("no route", request("lora,, ssf"), "model_name", "character 6"),
    ("no task", request("lora"), "parameters[task]", "shapes"),
    ("odd version", request(model_version="v 1"), "model_version", "v 1"),
    ("long version", request(model_version="9" * 40), "model_version", "999"),
    ("two versions", request("shapes/lora:1", model_version="2"), "model_version", "lora:3"),
    ("of a mix", request("shapes/lora, shapes/ssf", model_version="1"), "model_version", "one"),
    ("output", request(outputs=[{"name": "logits"}]), "outputs[0].name", "probabilities"),
    ("twice", request(outputs=[{"name": "label"}] * 2), "outputs[1].name", "twice"),
    ("best of labels", request(outputs=[{"name": "label", "parameters": parameters(classification=2)}]),
     "outputs[0].parameters[classification]", "probabilities"),
    ("odd best", request(outputs=[{"name": "probabilities", "parameters": parameters(classification=-2)}]),
     "outputs[0].parameters[classification]", "-2"),
    ("shared in", one_input(parameters=parameters(shared_memory_region="a")),
     "inputs[0].parameters[shared_memory_region]", "raw_input_contents"),
    ("shared out", request(outputs=[{"name": "label", "parameters": parameters(shared_memory_region="a")}]),
     "outputs[0].parameters[shared_memory_region]", "raw_output_contents"),
    *(
        (f"{name} {value}", request(parameters=parameters(**{name: value})), f"parameters[{name}]", text)
        for name, value, text in (
            ("alpha", "much", "a number"),
            ("alpha", True, "a number"),
            ("alpha", float("nan"), "a number"),
            ("alpha", 1.5, "[0, 1]"),
            ("alpha", 1e9, "alpha"),
            ("route", 5, "a text"),
            ("route", "", "lora"),
            ("adapter", "lora, ssf", "one adapter"),
            ("extrapolate", "yes", "true or false"),
            ("priority", 4, "high"),
            ("priority", "most", "high"),
            ("deadline", -1, "0 or more"),
            ("timeout", -1, "0 or more"),
            ("top_k", 0, "1 or more"),
            ("top_k", 1.5, "whole"),
            ("client", "x" * 129, "128"),
        )
    ),
    ("both names", request(parameters=parameters(route="lora", adapter="ssf")),
     "parameters[adapter]", "keep one"),
    ("alpha of a mix", request("shapes/lora, shapes/ssf", parameters=parameters(alpha=0.5)),
     "parameters[alpha]", "one adapter"),
]  # fmt: skip
UNKNOWN: list[tuple[str, Any, str, str]] = [
    ("model", request("shapes/loar"), "model_name", "lora"),
    ("task", request("shape/lora"), "model_name", "shapes"),
    ("version", request(model_version="9"), "model_version", "2"),
    ("alias", request(model_version="best"), "model_version", "latest"),
    ("unknown in parameter", request(parameters=parameters(route="loar", task="shapes")),
     "parameters[route]", "lora"),
    ("unknown task", request("lora", parameters=parameters(task="shape")), "parameters[task]", "shapes"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "asked", "field", "text"),
    [
        pytest.param(code, *row, id=name)
        for code, rows in (("INVALID_ARGUMENT", INVALID), ("NOT_FOUND", UNKNOWN))
        for name, *row in rows
    ],
)
def test_a_bad_request_is_told_its_field_and_the_server_lives(
    stub: Any, asked: Any, code: str, field: str, text: str
) -> None:
    found = refusal(lambda: stub.ModelInfer(asked))

    assert found[:2] == (code, field), found
    assert text in found[2]
    assert stub.ModelInfer(request()).outputs


def test_bytes_that_are_no_request_are_refused_and_the_server_lives(running: Running, stub: Any) -> None:
    with grpc.insecure_channel(running.address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff\xff")
    code = caught.value.code()  # type: ignore[attr-defined]
    assert code is grpc.StatusCode.UNKNOWN, "gRPC's own word for it"
    assert stub.ModelInfer(request()).outputs


def test_asking_about_an_unknown_model_is_not_found(client: Any) -> None:
    for ask in (client.get_model_metadata, client.get_model_config):
        with pytest.raises(InferenceServerException, match="model_name: no adapter"):
            ask("shapes/nothing")
        with pytest.raises(InferenceServerException, match="model_version"):
            ask("shapes/lora", "9")


# Streams


class Stream:
    """Requests that are given one by one, and the answers to them."""

    def __init__(self, running: Running) -> None:
        # A window that does not grow, so that answers to nobody soon fill it.
        self.channel = grpc.insecure_channel(running.address, options=[("grpc.http2.bdp_probe", 0)])
        self.taken = 0
        self._given: queue.Queue[Any] = queue.Queue()
        call = self.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=lambda one: one if isinstance(one, bytes) else one.SerializeToString(),
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        self.answers = call(self._requests(), timeout=WAIT_S)

    def give(self, *requests: Any) -> "Stream":
        for one in requests:
            self._given.put(one)
        return self

    def end(self) -> "Stream":
        return self.give(None)

    def _requests(self) -> Iterator[Any]:
        while (one := self._given.get()) is not None:
            self.taken += 1
            yield one

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.answers.cancel()
        self.end()
        self.channel.close()


def test_tritons_own_stream_is_answered_in_its_order(running: Running) -> None:
    answered: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(running.address) as client:
        client.start_stream(lambda result, error: answered.put((result, error)))
        for number in range(20):
            model = "shapes/nothing" if number == 7 else ("shapes/lora", "shapes/best")[number % 2]
            seeds = range(1 + 15 * (number % 2))
            client.async_stream_infer(model, [images(*seeds)], request_id=str(number))
        found = [answered.get(timeout=WAIT_S) for _ in range(20)]
        client.stop_stream()

    assert [None if error else result.get_response().id for result, error in found] == [
        None if number == 7 else str(number) for number in range(20)
    ]
    assert "NOT_FOUND: model_name: no adapter or named route" in str(found[7][1])
    assert found[3][0].as_numpy("probabilities").shape == (16, 3)
    assert found[3][0].get_response().parameters["triton_final_response"].bool_param


def test_a_request_that_fails_has_its_id_beside_the_message_and_the_stream_goes_on(running: Running) -> None:
    with Stream(running).give(request("shapes/loar", id="a"), request(id="b")).end() as stream:
        first, second = list(stream.answers)

    assert first.error_message.startswith("NOT_FOUND: model_name: ")
    assert first.infer_response.id == "a"
    assert (second.error_message, second.infer_response.id) == ("", "b")


def test_garbage_after_good_messages_ends_the_stream_after_their_answers(running: Running, stub: Any) -> None:
    with Stream(running).give(request(id="a"), request(id="b"), b"\xff\xff\xff") as stream:
        found = [next(stream.answers).infer_response.id for _ in range(2)]
        with pytest.raises(grpc.RpcError) as caught:
            next(stream.answers)

    assert found == ["a", "b"]
    assert described(caught.value)[:2] == ("INVALID_ARGUMENT", "stream")
    assert stub.ModelInfer(request()).outputs


def test_a_stream_whose_client_stops_reading_is_read_no_further(world: World) -> None:
    counted = {"method": "ModelStreamInfer", "code": "OK"}
    with Running(world.settings(max_stream_requests=4)) as running, Stream(running) as stream:
        stream.give(*(request(id="x" * 2**20) for _ in range(40)))
        until(lambda: running.value("corolla_requests_total", **counted) >= 1)
        answered = 0.0
        with triton.InferenceServerClient(running.address) as client:
            while running.value("corolla_requests_total", **counted) > answered:
                answered = running.value("corolla_requests_total", **counted)
                for _ in range(20):
                    assert infer(client, "shapes/lora").as_numpy("label").shape == (1,)
        assert answered < 10, "what is under way, and the answers that fit into the client's window"
        assert len([next(stream.answers) for _ in range(40)]) == 40, "and goes on when it reads again"


def test_a_stream_that_is_cut_off_stops_its_work(world: World) -> None:
    with Running(world.settings()) as running, grpc.insecure_channel(running.address) as channel:
        release = running.hold_engine()
        first = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request())
        until(lambda: running.server.service.batcher.oldest_age_s > 0)
        with Stream(running).give(*(request() for _ in range(5))):
            until(lambda: running.value("corolla_queue_rows") == 5)
        until(lambda: running.value("corolla_queue_rows") == 0)
        release.set()
        assert first.result().outputs
        assert running.value("corolla_queue_dropped_total", reason="cancelled") == 5


# The repository


def index(client: Any) -> dict[tuple[str, str], tuple[str, str]]:
    return {(m.name, m.version): (m.state, m.reason) for m in client.get_model_repository_index().models}


def test_the_index_lists_routes_and_adapters_and_what_is_wrong_with_them(own_world: World) -> None:
    own_world.put_route("broken", "lora:1")
    own_world.adapter_file("shapes", "ssf", 1).with_name("manifest.json").write_text("{")
    (own_world.folder / "routes" / "shapes" / "broken").write_text("{")
    with Running(own_world.settings()) as running, triton.InferenceServerClient(running.address) as client:
        found = index(client)
        ready = service_pb2.RepositoryIndexRequest(ready=True)
        with grpc.insecure_channel(running.address) as channel:
            listed = service_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryIndex(ready).models

    assert found["shapes/lora", "1"] == ("READY", "its first request loads it")
    assert found["colours/base", ""][0] == "READY"
    assert found["shapes/broken", ""][0] == found["shapes/ssf", "1"][0] == "UNAVAILABLE"
    assert found["shapes/best", ""][0] == "UNAVAILABLE", "one of its members is damaged"
    assert "manifest.json" in found["shapes/ssf", "1"][1]
    assert {(m.name, m.version) for m in listed} == {
        key for key, (state, _) in found.items() if state == "READY"
    }


def test_models_are_loaded_and_unloaded(world: World) -> None:
    with Running(world.settings()) as running, triton.InferenceServerClient(running.address) as client:
        client.load_model("shapes/best")
        loaded = [key for key, (_, reason) in index(client).items() if not reason]
        assert sorted(loaded) == [
            ("shapes/best", ""), ("shapes/bitfit", "1"), ("shapes/lora", "2"), ("shapes/ssf", "1")
        ]  # fmt: skip
        client.unload_model("shapes/ssf")
        assert index(client)["shapes/ssf", "1"] == ("READY", "its first request loads it")
        with pytest.raises(InferenceServerException, match="not in memory"):
            client.unload_model("shapes/ssf")
        with pytest.raises(InferenceServerException, match="no adapter"):
            client.load_model("shapes/nothing")
        with pytest.raises(InferenceServerException, match="models come from the store"):
            client.load_model("shapes/ssf", config="{}")


def test_where_administration_is_not_served_nothing_is_loaded_or_unloaded(world: World) -> None:
    with (
        Running(world.settings(admin=False)) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        load = service_pb2.RepositoryModelLoadRequest(model_name="shapes/lora")
        unload = service_pb2.RepositoryModelUnloadRequest(model_name="shapes/lora")
        for call in (lambda: stub.RepositoryModelLoad(load), lambda: stub.RepositoryModelUnload(unload)):
            code, _, text = refusal(call)
            assert code == "PERMISSION_DENIED"
            assert "--admin" in text
        assert running.value("corolla_registered_adapters") == 0
        assert stub.RepositoryIndex(service_pb2.RepositoryIndexRequest()).models
