"""Messages that cannot be read, or were made to cost memory, are refused before they do, and counted."""

import time
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor

from petl_vit.errors import InvalidInput
from protos.corolla.v1 import classifier_pb2 as pb
from protos.inference import grpc_service_pb2 as oip
from serving.rpc.parts import MOST_PARTS, check_parts
from tests.serving.world import Running, encoded, until

MANY = 1_000_000


def field(kind: Descriptor, name: str, content: bytes) -> bytes:
    """A field of a message on the wire, whose content has a length."""
    length, size = b"", len(content)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([kind.fields_by_name[name].number << 3 | 2]) + length + bytes([size]) + content


CLASSIFY, INFER = pb.ClassifyRequest.DESCRIPTOR, oip.ModelInferRequest.DESCRIPTOR
EMPTY = {
    "images": (CLASSIFY, field(CLASSIFY, "images", b"") * MANY),
    "entries": (CLASSIFY, field(CLASSIFY, "typed_route", field(pb.Route.DESCRIPTOR, "entries", b"") * MANY)),
    "inputs": (INFER, field(INFER, "inputs", b"") * MANY),
    "parameters": (INFER, field(INFER, "parameters", b"\n\1a") * MANY),
    "labels": (pb.FeedbackRequest.DESCRIPTOR, field(pb.FeedbackRequest.DESCRIPTOR, "labels", b"") * MANY),
    "unknown": (CLASSIFY, b"\xf8\x7f\0" * MANY),
}


def failure(channel: grpc.Channel, method: str, message: bytes) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method)(message, timeout=60)
    return caught.value


@pytest.mark.parametrize("name", EMPTY)
def test_a_message_of_a_million_parts_is_refused_before_it_is_parsed(name: str) -> None:
    kind, data = EMPTY[name]
    started = time.thread_time()
    with pytest.raises(InvalidInput, match="more than 16,384 parts"):
        check_parts(data, kind)
    assert time.thread_time() - started < 2


def test_messages_that_are_taken_have_few_parts() -> None:
    request = pb.ClassifyRequest(
        task="shapes", images=[pb.Image(id=str(number), data=encoded()) for number in range(1000)]
    )
    check_parts(request.SerializeToString(), CLASSIFY)
    labels = [pb.Label(prediction_id="c" * 200, class_name="star", revision=3) for _ in range(1000)]
    feedback = pb.FeedbackRequest(labels=labels)
    check_parts(feedback.SerializeToString(), pb.FeedbackRequest.DESCRIPTOR)
    pixels = oip.ModelInferRequest(model_name="lora")
    pixels.inputs.add(shape=[1]).contents.uint_contents.extend([1] * MOST_PARTS * 2)
    check_parts(pixels.SerializeToString(), INFER)


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff\xff\xff\xff\x7f", b"\x0b\x0b", b"\x80" * 30, b"\0"])
def test_of_bytes_that_are_no_message_nothing_is_said(data: bytes) -> None:
    check_parts(field(CLASSIFY, "task", bytes(100)) + data, CLASSIFY, most=50)


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("/corolla.v1.Classifier/Classify", "ClassifyRequest"),
        ("/corolla.v1.Classifier/Feedback", "FeedbackRequest"),
        ("/corolla.v1.Admin/SetAlias", "SetAliasRequest"),
        ("/inference.GRPCInferenceService/ModelInfer", "ModelInferRequest"),
    ],
)
def test_bytes_that_are_no_message_are_the_callers_fault_and_counted(
    running: Running, method: str, kind: str
) -> None:
    labels = {"method": method.rpartition("/")[2], "code": "INVALID_ARGUMENT"}
    before = running.value("corolla_requests_total", **labels)
    with grpc.insecure_channel(running.address) as channel:
        error: Any = failure(channel, method, b"\xff\xff\xff")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"the bytes are not a {kind}; send a" in error.details()
    until(lambda: running.value("corolla_requests_total", **labels) == before + 1)


def test_a_message_of_too_many_parts_is_refused_by_a_server(running: Running) -> None:
    with grpc.insecure_channel(running.address) as channel:
        error: Any = failure(channel, "/corolla.v1.Classifier/Classify", EMPTY["entries"][1])
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "more than 16,384 parts; send what it asks in several calls" in error.details()
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream("/corolla.v1.Classifier/ClassifyStream")(iter([b"\xff"]), timeout=60))
        ended: Any = caught.value
        assert ended.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_tensor_of_a_million_sides_is_refused(running: Running) -> None:
    classify = pb.ClassifyRequest(task="shapes", route="lora")
    classify.tensor.CopyFrom(pb.Tensor(dtype=pb.Tensor.DATA_TYPE_UINT8, shape=[1] * MANY))
    infer = oip.ModelInferRequest(model_name="shapes/lora")
    infer.inputs.add(name="images", datatype="UINT8", shape=[1] * MANY)
    with grpc.insecure_channel(running.address) as channel:
        for method, message in (
            ("/corolla.v1.Classifier/Classify", classify),
            ("/inference.GRPCInferenceService/ModelInfer", infer),
        ):
            error: Any = failure(channel, method, message.SerializeToString())
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "shape [1, 1, 1, 1, 1" in error.details()


def test_metadata_beyond_the_limit_is_refused(running: Running) -> None:
    request = pb.ClassifyRequest(task="shapes", route="lora", images=[pb.Image(data=encoded())])
    with grpc.insecure_channel(running.address) as channel:
        classify = channel.unary_unary("/corolla.v1.Classifier/Classify")
        with pytest.raises(grpc.RpcError) as caught:
            classify(request.SerializeToString(), timeout=60, metadata=[("authorization", "x" * 40_000)])
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert classify(request.SerializeToString(), timeout=60, metadata=[("a", "x" * 4_000)])
