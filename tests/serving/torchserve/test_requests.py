"""TorchServe's conventions, without TorchServe: tests/integration/test_torchserve.py has the real one."""

import base64
import json
from typing import Any

import pytest

from petl_vit.errors import Conflict, Corrupt, Draining, Expired, InvalidInput, NotFound, Overloaded
from serving.torchserve.requests import error_document, failure, request_of
from tests.serving.world import encoded

IMAGE = encoded(0)
TEXT = base64.b64encode(IMAGE).decode()


# Requests


@pytest.mark.parametrize(
    "row",
    [
        {"image": bytearray(IMAGE), "route": bytearray(b"lora"), "task": b"shapes", "top_k": b"2"},
        {"image": bytearray(IMAGE), "route": "lora", "task": "shapes", "top_k": "2"},
        {"body": {"image": TEXT, "route": "lora", "task": "shapes", "top_k": 2}},
        {"data": {"images": [TEXT], "route": "lora", "task": "shapes", "top_k": 2}},
        {"images": json.dumps([TEXT]).encode(), "route": b"lora", "task": b"shapes", "top_k": b"2"},
    ],
    ids=["grpc", "form", "json", "json list", "grpc list"],
)
def test_a_request_is_read_however_it_came(row: dict[str, Any]) -> None:
    request = request_of(row)

    assert (str(request.request.route), request.request.task, request.top_k) == ("lora", "shapes", 2)
    assert list(request.request.images) == [IMAGE]


def test_only_the_image_and_the_route_are_needed() -> None:
    request = request_of({"image": IMAGE, "route": b"lora"})
    assert (request.request.task, request.request.domain, request.top_k, request.single) == ("", "", 5, True)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({}, "route"),
        ({"image": IMAGE}, "route"),
        ({"image": IMAGE, "route": b""}, "route"),
        ({"image": IMAGE, "route": b"lora,"}, "route"),
        ({"image": IMAGE, "route": b"\xff"}, "route"),
        ({"image": IMAGE, "route": 10**15}, "route"),
        ({"image": IMAGE, "route": None}, "route"),
        ({"route": b"lora"}, "image"),
        ({"image": IMAGE, "images": b"[]", "route": b"lora"}, "image"),
        ({"image": 7, "route": b"lora"}, "image"),
        ({"image": "no base64!", "route": b"lora"}, "image"),
        ({"images": b"\xff", "route": b"lora"}, "images"),
        ({"images": b"{}", "route": b"lora"}, "images"),
        ({"images": 10**15, "route": b"lora"}, "images"),
        ({"images": b"[" * 100_000, "route": b"lora"}, "images"),
        ({"images": b"[", "route": b"lora"}, "images"),
        ({"images": [TEXT, None], "route": b"lora"}, "images[1]"),
        ({"images": ["é"], "route": b"lora"}, "images[0]"),
        ({"image": IMAGE, "route": b"lora", "top_k": b"0"}, "top_k"),
        ({"image": IMAGE, "route": b"lora", "top_k": b"-1"}, "top_k"),
        ({"image": IMAGE, "route": b"lora", "top_k": 1.5}, "top_k"),
        ({"image": IMAGE, "route": b"lora", "top_k": b"9" * 5000}, "top_k"),
        ({"image": IMAGE, "route": b"lora", "topk": b"1"}, "topk"),
        ({"body": bytearray(IMAGE)}, "body"),
        ({"body": []}, "body"),
    ],
)
def test_what_cannot_be_read_is_named(row: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        request_of(row)
    assert raised.value.field == field


# Failures


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidInput("x"), 400, "INVALID_ARGUMENT"),
        (NotFound("x"), 404, "NOT_FOUND"),
        (Conflict("x"), 409, "ABORTED"),
        (Overloaded("x"), 429, "RESOURCE_EXHAUSTED"),
        (Draining("x"), 503, "UNAVAILABLE"),
        (Expired("x"), 504, "DEADLINE_EXCEEDED"),
        (Corrupt("x"), 500, "DATA_LOSS"),
    ],
)
def test_an_error_has_one_status(error: Exception, status: int, code: str) -> None:
    answer = failure(error)
    assert (answer.status, answer.document["error"]["code"]) == (status, code)


def test_an_error_names_its_field_where_it_has_one() -> None:
    assert error_document(InvalidInput("bad", field="route", remedy="mend it")) == {
        "code": "INVALID_ARGUMENT",
        "message": "route: bad; mend it",
        "field": "route",
    }
    assert "field" not in error_document(InvalidInput("bad"))


def test_an_error_of_ours_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    answer = failure(RuntimeError("secret"))

    assert answer.status == 500
    assert "secret" not in json.dumps(answer.document)
    assert answer.document["error"]["message"].rpartition(" ")[2] in caplog.text
    assert "secret" in caplog.text
