"""Requests from what TorchServe hands over, and answers as JSON.

Knows TorchServe's conventions and none of its code: `deploy/torchserve/handler.py` connects the two.

A request is a map of names to values: a gRPC `PredictionsRequest.input`, the parts of a form, or one JSON
object. TorchServe drops a URL's parameters, so an image alone as the body cannot say its route.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import grpc

from model_store.routes.text import parse_route
from petl_vit.errors import CorollaError, InvalidInput
from serving.request import ImageAnswer, Request, Response
from serving.rpc import incident
from serving.rpc.status import code_of, message_of

KEYS = ("image", "images", "route", "task", "domain", "top_k")
BODIES = ("body", "data")
"""What TorchServe calls a body without a name."""
_DEFAULT_TOP_K = 5

_HTTP = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""TorchServe's gRPC turns these back into the codes they come from; every other code is 500."""


# From TorchServe


@dataclass(frozen=True, kw_only=True)
class PredictionRequest:
    """One request of TorchServe, and how it is answered.

    Attributes:
        single: It has one image, as `image`, whose error is the request's error.
    """

    request: Request
    top_k: int
    single: bool

    def document(self, response: Response) -> dict[str, Any]:
        """The answer.

        Raises:
            CorollaError: The single image could not be answered.
        """
        if self.single and isinstance(response.images[0], CorollaError):
            raise response.images[0]
        resolved = response.resolved
        return {
            "route": str(resolved),
            "task": resolved.task.spec.name,
            "route_note": response.route_note,
            "backbone_digest": resolved.task.spec.backbone_digest,
            "adapters": [
                {"name": term.full_name, "digest": term.digest, "method": term.method}
                for term in resolved.terms()
            ],
            "results": [
                {"error": error_document(image)}
                if isinstance(image, CorollaError)
                else _result(image, resolved.classes, self.top_k)
                for image in response.images
            ],
            "timings": asdict(response.timings),
            "domain": response.domain,
            "domain_note": response.domain_note,
        }


def request_of(row: Mapping[str, Any]) -> PredictionRequest:
    """The request in one row of a TorchServe batch.

    Raises:
        InvalidInput: A key is missing, unknown or has a bad value; names it.
    """
    fields = _fields(row)
    unknown = [key for key in fields if key not in KEYS]
    if unknown:
        raise InvalidInput("the key is not known", field=unknown[0], remedy=f"send {', '.join(KEYS)}")
    text = {key: _text(fields[key], key) for key in ("route", "task", "domain") if key in fields}
    if not text.get("route"):
        raise InvalidInput("the request names no route", field="route", remedy="set route, e.g. to `lora`")
    request = Request(
        task=text.get("task", ""),
        route=parse_route(text["route"]),
        images=_images(fields),
        domain=text.get("domain", ""),
    )
    return PredictionRequest(request=request, top_k=_top_k(fields.get("top_k")), single="image" in fields)


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the row, or of the JSON object that is its body."""
    body = next((row[key] for key in BODIES if key in row), None)
    if body is None:
        return dict(row)
    if not isinstance(body, Mapping):
        raise InvalidInput(
            "the body is not a JSON object",
            field="body",
            remedy="send one as application/json, or image and route as the parts of a form",
        )
    return dict(body)


def _text(value: Any, key: str) -> str:
    try:
        return value if isinstance(value, str) else _bytes(value, key).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("it is not UTF-8", field=key, remedy="send text") from error


def _top_k(value: Any) -> int:
    if value is None:
        return _DEFAULT_TOP_K
    text = str(value) if isinstance(value, int) else _text(value, "top_k")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise InvalidInput(f"{text[:50]!r} is not a count", field="top_k", remedy="send 1 or more")
    return int(text)


def _images(fields: Mapping[str, Any]) -> list[bytes]:
    if ("image" in fields) == ("images" in fields):
        problem = "the request has both an image and images" if "image" in fields else "it has no image"
        raise InvalidInput(problem, field="image", remedy="send image, or images as a JSON list of base64")
    if "image" in fields:
        value = fields["image"]
        # JSON has no bytes, and an encoded image is never text.
        return [_base64(value, "image") if isinstance(value, str) else _bytes(value, "image")]
    return [_base64(value, f"images[{i}]") for i, value in enumerate(_list(fields["images"]))]


def _list(value: Any) -> list[Any]:
    try:
        images = value if isinstance(value, list) else json.loads(_text(value, "images"))
    except (json.JSONDecodeError, RecursionError):
        images = None
    if not isinstance(images, list):
        remedy = "send a JSON list of base64 strings"
        raise InvalidInput("it is not a JSON list", field="images", remedy=remedy)
    return images


def _base64(value: Any, field: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise InvalidInput("it is not base64", field=field, remedy="encode the bytes of the file") from error


def _bytes(value: Any, field: str) -> bytes:
    if not isinstance(value, bytes | bytearray):
        raise InvalidInput(f"it is a {type(value).__name__}", field=field, remedy="send bytes or text")
    return bytes(value)


# To TorchServe


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The answer to a failed request: the HTTP status, from which TorchServe makes gRPC's, and the body."""

    status: int
    document: dict[str, Any]


def failure(error: BaseException) -> Failure:
    """The failure for an error; one that is not the request's fault is logged, and told by its incident."""
    if isinstance(error, CorollaError):
        return Failure(status=_HTTP.get(code_of(error), 500), document={"error": error_document(error)})
    message = incident.report(error, method="handle", program="worker")
    document = {"code": grpc.StatusCode.INTERNAL.name, "message": message}
    return Failure(status=500, document={"error": document})


def error_document(error: CorollaError) -> dict[str, Any]:
    """An error as JSON: gRPC's code by name, and the field it is about."""
    document = {"code": code_of(error).name, "message": message_of(error)}
    return document | ({"field": error.field} if error.field else {})


def _result(answer: ImageAnswer, classes: tuple[str, ...], top_k: int) -> dict[str, Any]:
    wish = answer.label_request
    return {
        "top": [
            {"class_name": classes[i], "class_index": i, "probability": float(answer.probabilities[i])}
            for i in answer.best(top_k)
        ],
        "agreement": answer.agreement,
        "entropy": answer.entropy,
        "mutual_information": answer.mutual_information,
        "members_asked": answer.members_asked,
        "prediction_id": answer.prediction_id,
        "label_request": wish and {"reason": wish.reason, "inclusion_probability": wish.probability},
    }
