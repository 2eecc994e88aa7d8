"""corolla.v1.Classifier over a real channel: what a bad image or request is told."""

import io
from typing import Any

import numpy as np
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from PIL import Image

from protos.corolla.v1 import classifier_pb2 as pb
from serving.client.blocking import Client
from serving.client.messages import RequestFailed, request_of
from serving.request import MAX_CLIENT
from tests.serving.rpc.requests import ask, refused, typed
from tests.serving.world import (
    SIZE,
    encoded,
)


def oversized() -> bytes:
    out = io.BytesIO()
    Image.new("1", (9000, 9000)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (b"", "empty"),
        (b"no image", "not an image"),
        (b"GIF89a", "cannot be decoded"),
        (b"%PDF-1.7", "PDF"),
        (encoded(1)[:200], "cannot be decoded"),
        (oversized(), "9000 x 9000"),
    ],
)
def test_a_bad_image_has_its_own_status_in_an_ok_answer(client: Client, image: bytes, problem: str) -> None:
    fine, bad = ask(client, "lora", encoded(1), image, ids=["fine", "bad"]).results

    assert (fine.error.code, bad.error.code) == (code_pb2.OK, code_pb2.INVALID_ARGUMENT)
    assert bad.id == "bad"
    assert problem in bad.error.message
    assert field_of(bad.error) == "images[1]"
    assert not bad.top
    assert not bad.prediction_id
    assert fine.prediction_id


def field_of(status: status_pb2.Status) -> str:
    request = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(request)
    return str(request.field_violations[0].field)


def test_nan_in_one_image_of_a_tensor_has_its_own_status(client: Client) -> None:
    tensor = np.zeros((3, 3, SIZE, SIZE), np.float32)
    tensor[1, 0, 0, 0], tensor[2, 0, 0, 0] = np.nan, np.inf
    fine, *bad = client.classify(route="lora", task="shapes", tensor=tensor).results

    assert fine.error.code == code_pb2.OK
    assert [result.error.code for result in bad] == [code_pb2.INVALID_ARGUMENT] * 2
    assert [field_of(result.error) for result in bad] == ["tensor[1]", "tensor[2]"]


@pytest.mark.parametrize("value", [1e30, -2e6, np.finfo(np.float32).max])
def test_values_that_would_overflow_in_a_forward_are_the_requests_fault(client: Client, value: float) -> None:
    tensor = np.zeros((2, 3, SIZE, SIZE), np.float32)
    tensor[0], tensor[1] = 1e6, value
    fine, bad = client.classify(route="lora", task="shapes", tensor=tensor).results

    assert fine.error.code == code_pb2.OK
    assert (bad.error.code, field_of(bad.error)) == (code_pb2.INVALID_ARGUMENT, "tensor[1]")
    assert "beyond 1,000,000; send" in bad.error.message


@pytest.mark.parametrize(
    ("route", "field", "near"),
    [
        ("lorra", "adapter", "did you mean lora?"),
        ("lora:7", "version", "there is 1, 2"),
        ("lora@prd", "alias", "did you mean prod?"),
        ("lora, ssff", "adapter", "did you mean ssf?"),
        ("shape/lora", "task", "did you mean shapes?"),
    ],
)
def test_an_unknown_name_is_not_found_and_near_matches_are_named(
    client: Client, route: str, field: str, near: str
) -> None:
    assert near in str(refused(client, "NOT_FOUND", field, route=route))


def test_an_unknown_task_is_not_found(client: Client) -> None:
    assert "did you mean shapes?" in str(refused(client, "NOT_FOUND", "task", task="shaps"))


def test_members_of_different_label_spaces_are_refused_by_name(client: Client) -> None:
    error = refused(client, "INVALID_ARGUMENT", "route", route="lora, colours/lora")

    assert "shapes/lora:2 and colours/lora:1 have different classes" in str(error)


def test_terms_of_different_tasks_are_refused(client: Client) -> None:
    refused(client, "INVALID_ARGUMENT", "route", route="0.5*lora + 0.5*reordered/lora")


@pytest.mark.parametrize("route", ["1.2*lora", "-0.5*lora", "lora, ssf + 3*bitfit"])
def test_alpha_out_of_range_is_refused_unless_it_is_allowed(client: Client, route: str) -> None:
    refused(client, "INVALID_ARGUMENT", "alpha", route=route)

    (result,) = ask(client, route, extrapolate=True, probabilities=True).results
    assert sum(result.probabilities) == pytest.approx(1, abs=1e-6)


def test_prompts_have_no_negative_alpha_even_when_it_is_allowed(client: Client) -> None:
    refused(client, "INVALID_ARGUMENT", "alpha", route="-0.5*vpt-deep", extrapolate=True)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_alpha_that_is_no_number_is_refused(client: Client, alpha: float) -> None:
    route = typed((None, [(alpha, "lora")]))
    refused(client, "INVALID_ARGUMENT", "alpha", route=route, extrapolate=True)


@pytest.mark.parametrize("weight", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive_is_refused(client: Client, weight: float) -> None:
    refused(client, "INVALID_ARGUMENT", "weight", route=typed((weight, [(None, "lora")])))


def test_an_unknown_combine_is_refused(client: Client) -> None:
    route = typed((None, [(None, "lora")]), combine=17)
    error = refused(client, "INVALID_ARGUMENT", "typed_route.combine", route=route)
    assert "17 is unknown; send one of Combine" in str(error)


@pytest.mark.parametrize("text", ["", "lora,", "0.5*", "lora ssf", "x" * 5000, "LORA", "../../etc"])
def test_text_that_is_no_route_is_refused(client: Client, text: str) -> None:
    refused(client, "INVALID_ARGUMENT", "route", route=text)


@pytest.mark.parametrize("count", [0, 17])
def test_a_typed_route_has_some_entries_but_not_too_many(client: Client, count: int) -> None:
    refused(client, "INVALID_ARGUMENT", "route", route=typed(*[(None, [(None, "lora")])] * count))


def test_a_typed_adapter_with_a_bad_name_is_refused(client: Client) -> None:
    refused(client, "INVALID_ARGUMENT", "adapter", route=typed((None, [(None, "../lora")])))


def test_the_longest_route_gets_an_error_that_arrives(client: Client) -> None:
    ref = pb.AdapterRef(task="t" * 60, name="n" * 60, alias="a" * 60)
    terms = [pb.Term(alpha=0.123456789, adapter=ref)] * 16
    route = pb.Route(entries=[pb.Entry(weight=-1, model=pb.Model(terms=terms))])
    refused(client, "INVALID_ARGUMENT", "weight", route=route)


def test_a_request_without_a_route_is_refused(client: Client) -> None:
    with pytest.raises(RequestFailed) as caught:
        client.send(pb.ClassifyRequest(task="shapes", images=[pb.Image(data=encoded(0))]))
    assert (caught.value.code, caught.value.named_field) == ("INVALID_ARGUMENT", "route")


def test_a_request_without_a_task_is_refused_with_the_choices(client: Client) -> None:
    error = refused(client, "INVALID_ARGUMENT", "task", task="")
    assert "colours, reordered, shapes" in str(error)


def test_a_request_without_images_is_refused(client: Client) -> None:
    refused(client, "INVALID_ARGUMENT", "images", images=[])


def test_too_many_images_are_refused(client: Client) -> None:
    error = refused(client, "INVALID_ARGUMENT", "images", images=[b""] * 65)
    assert "at most 64" in str(error)


def test_a_tensor_of_too_many_images_is_refused_before_it_is_taken_apart(client: Client) -> None:
    tensor = np.zeros((1_000_000, 1, 1, 3), np.uint8)
    refused(client, "INVALID_ARGUMENT", "images", images=[], tensor=tensor)


def test_images_and_a_tensor_together_are_refused(client: Client) -> None:
    refused(client, "INVALID_ARGUMENT", "tensor", tensor=np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 3, 8, 8), (1, 8, 8, 4), (0, 8, 8, 3), (1, 0, 8, 3)])
def test_a_uint8_tensor_of_the_wrong_shape_is_refused(client: Client, shape: tuple[int, ...]) -> None:
    refused(client, "INVALID_ARGUMENT", "tensor.shape", images=[], tensor=np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(3, SIZE, SIZE), (1, SIZE, SIZE, 3), (2, 3, 64, 64), (1, 3, SIZE, 1)])
def test_a_float32_tensor_of_the_wrong_shape_is_refused(client: Client, shape: tuple[int, ...]) -> None:
    refused(client, "INVALID_ARGUMENT", "tensor.shape", images=[], tensor=np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("dtype", "problem"),
    [(pb.Tensor.DATA_TYPE_UNSPECIFIED, "the dtype is not set"), (9, "dtype 9 is unknown")],
)
def test_a_tensor_of_an_unknown_dtype_is_refused(client: Client, dtype: Any, problem: str) -> None:
    request = request_of(route="lora", task="shapes")
    request.tensor.CopyFrom(pb.Tensor(dtype=dtype, shape=[1, 1, 1, 3], data=b"abc"))
    with pytest.raises(RequestFailed) as caught:
        client.send(request)
    assert (caught.value.code, caught.value.named_field) == ("INVALID_ARGUMENT", "tensor.dtype")
    assert f"{problem}; send uint8 or float32" in str(caught.value)


@pytest.mark.parametrize("shape", [[1, 2, 2, 3], [2**32 - 1, 2**32 - 1, 2**32 - 1, 3]])
def test_a_tensor_whose_bytes_are_not_its_shape_is_refused(client: Client, shape: list[int]) -> None:
    request = request_of(route="lora", task="shapes")
    request.tensor.CopyFrom(pb.Tensor(dtype=pb.Tensor.DATA_TYPE_UINT8, shape=shape, data=b"12345"))
    with pytest.raises(RequestFailed) as caught:
        client.send(request)
    assert (caught.value.code, caught.value.named_field) == ("INVALID_ARGUMENT", "tensor.data")


def test_an_unknown_priority_is_refused(client: Client) -> None:
    request = request_of([encoded(0)], route="lora", task="shapes")
    request.priority = 17
    with pytest.raises(RequestFailed) as caught:
        client.send(request)
    assert (caught.value.code, caught.value.named_field) == ("INVALID_ARGUMENT", "priority")
    assert "17 is unknown; send one of Priority" in str(caught.value)


def test_a_client_with_too_long_a_name_is_refused(client: Client) -> None:
    for length in (MAX_CLIENT, MAX_CLIENT + 1, 10_000):
        request = request_of([encoded(0)], route="lora", task="shapes", client="x" * length)
        if length == MAX_CLIENT:
            client.send(request)
            continue
        with pytest.raises(RequestFailed) as caught:
            client.send(request)
        assert (caught.value.code, caught.value.named_field) == ("INVALID_ARGUMENT", "client")


def test_a_misspelt_route_suggests_routes_too(client: Client) -> None:
    assert "did you mean best?" in str(refused(client, "NOT_FOUND", "adapter", route="bset"))
