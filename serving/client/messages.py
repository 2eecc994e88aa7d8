"""What a client sends and gets: protobuf messages from plain values, and errors from what a server says.

`Client.classify` and `Client.embed` say what the arguments of requests mean.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from petl_vit.errors import CorollaError, InvalidInput
from protos.corolla.v1 import classifier_pb2 as pb
from serving.client.channel import Endpoint
from serving.client.reasons import reason, unauthenticated

DEFAULT_ADDRESS = "127.0.0.1:50051"
TIMEOUT_S = 30.0

Priority = Literal["low", "normal", "high"]
_PRIORITIES = {
    None: pb.PRIORITY_UNSPECIFIED,
    "low": pb.PRIORITY_LOW,
    "normal": pb.PRIORITY_NORMAL,
    "high": pb.PRIORITY_HIGH,
}
_DTYPES = {"uint8": pb.Tensor.DATA_TYPE_UINT8, "float32": pb.Tensor.DATA_TYPE_FLOAT32}

RequestId = str
"""The caller's own name of a request in a stream."""


class RequestFailed(CorollaError):
    """The server refused or could not answer a request.

    Attributes:
        code: gRPC's status code by name, e.g. `NOT_FOUND`.
        named_field: The field that the server says it is about, if any.
        request_id: By which the server's log knows the call, where one answered.
    """

    def __init__(
        self, code: str, problem: str, *, field: str | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(_plain(problem), field=None)
        self.code, self.named_field, self.request_id = code, field, request_id

    @property
    def too_much(self) -> bool:
        """Whether fewer images in one request may work."""
        return _TOO_LARGE in self.problem or (self.named_field == "images" and _TOO_MANY in self.problem)


_REQUEST_ID = "x-request-id"
_TOO_LARGE, _TOO_MANY = "bytes in one message", "images in one request"


def _plain(problem: str) -> str:
    """What gRPC says of a message that is too large, in plain words."""
    sizes = re.search(r"larger than max \((\d+) vs\.? (\d+)\)", problem)
    if sizes is None:
        return problem
    return (
        f"{int(sizes[1]):,} {_TOO_LARGE}, at most {int(sizes[2]):,} are taken; "
        "send fewer or smaller images in one request"
    )


# Requests


def request_of(
    images: Iterable[bytes] = (),
    *,
    route: str | pb.Route,
    task: str = "",
    domain: str = "",
    top_k: int = 0,
    tensor: Any = None,
    probabilities: bool = False,
    members: bool = False,
    extrapolate: bool = False,
    ids: Sequence[str] = (),
    priority: Priority | None = None,
    client: str = "",
) -> pb.ClassifyRequest:
    """A classification request, for a stream or `Client.send`; `Client.classify` has the arguments.

    Raises:
        InvalidInput: Images or a tensor that are not what they should be.
    """
    request = pb.ClassifyRequest(
        task=task,
        images=_images(images, ids),
        tensor=_tensor(tensor),
        domain=domain,
        top_k=top_k,
        want_probabilities=probabilities,
        want_members=members,
        allow_extrapolation=extrapolate,
        priority=_PRIORITIES[priority],
        client=client,
    )
    _set_route(request, route)
    return request


def embed_request_of(
    images: Iterable[bytes] = (),
    *,
    route: str | pb.Route = "",
    task: str = "",
    tensor: Any = None,
    normalise: bool = False,
    extrapolate: bool = False,
    ids: Sequence[str] = (),
    priority: Priority | None = None,
    client: str = "",
) -> pb.EmbedRequest:
    """An embedding request; `Client.embed` has the arguments.

    Raises:
        InvalidInput: Images or a tensor that are not what they should be.
    """
    request = pb.EmbedRequest(
        task=task,
        images=_images(images, ids),
        tensor=_tensor(tensor),
        normalise=normalise,
        allow_extrapolation=extrapolate,
        priority=_PRIORITIES[priority],
        client=client,
    )
    if route:
        _set_route(request, route)
    return request


def _set_route(request: pb.ClassifyRequest | pb.EmbedRequest, route: str | pb.Route) -> None:
    if isinstance(route, str):
        request.route = route
    else:
        request.typed_route.CopyFrom(route)


def _images(images: Iterable[bytes], ids: Sequence[str]) -> list[pb.Image]:
    several = [] if isinstance(images, bytes | str) else [*images]
    if isinstance(images, bytes | str) or not all(isinstance(data, bytes) for data in several):
        raise InvalidInput(
            "images are not a list of bytes",
            field="images",
            remedy='write for example [open("cat.jpg", "rb").read()]',
        )
    if ids and len(ids) != len(several):
        raise InvalidInput(
            f"{len(ids)} ids for {len(several)} images", field="ids", remedy="give one for each, or none"
        )
    return [
        pb.Image(data=data, id=name) for data, name in zip(several, ids or [""] * len(several), strict=True)
    ]


def _tensor(array: Any) -> pb.Tensor | None:
    if array is None:
        return None
    name = str(array.dtype)
    if name not in _DTYPES:
        raise InvalidInput(f"dtype {name}", field="tensor", remedy="send uint8 or float32")
    return pb.Tensor(dtype=_DTYPES[name], shape=list(array.shape), data=array.tobytes())


def stream_request_of(request: tuple[RequestId, pb.ClassifyRequest]) -> pb.StreamRequest:
    """One message of a stream.

    Raises:
        InvalidInput: The request's id is not text.
    """
    name, asked = request
    if not isinstance(name, str):
        raise InvalidInput(f"{name!r} is not text", field="requests", remedy="use str ids")
    return pb.StreamRequest(id=name, request=asked)


# Answers


def outcome_of(message: pb.StreamResponse) -> tuple[RequestId, pb.ClassifyResponse | RequestFailed]:
    """The id of a request in a stream, and its answer or why it failed."""
    if message.WhichOneof("outcome") == "response":
        return message.id, message.response
    error = message.error
    return message.id, RequestFailed(code_pb2.Code.Name(error.code), error.message, field=_field(error))


def too_large(error: RequestFailed) -> pb.ImageResult:
    """The result of an image that is `too_much` by itself."""
    sizes, _, _ = error.problem.partition(";")
    message = f"the image is too large ({sizes}); scale it down, or raise the server's --max-message-bytes"
    return pb.ImageResult(error=status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message=message))


def failure(error: grpc.RpcError, endpoint: Endpoint | None = None) -> RequestFailed:
    """The error of a failed call with what the server said about it, or why it was not reached.

    Args:
        endpoint: Where the call went to, if that is to be said.
    """
    # A failed call is its own error, on asyncio too; what cannot say its trailing metadata has none.
    told = hasattr(error, "trailing_metadata")
    status = rpc_status.from_call(error) if told else None
    metadata: Iterable[Any] = (error.trailing_metadata() or ()) if told else ()
    name = next((str(value) for key, value in metadata if key == _REQUEST_ID), None)
    code, details = error.code(), error.details() or "no details"
    if code is grpc.StatusCode.UNAUTHENTICATED and endpoint is not None:
        details = unauthenticated(details, endpoint)
    elif status is None and endpoint is not None:
        details = reason(code, details, endpoint)
    return RequestFailed(code.name, details, field=_field(status), request_id=name)


def _field(status: status_pb2.Status | None) -> str | None:
    """The field that a status is about."""
    details: Iterable[Any] = status.details if status is not None else ()
    for detail in details:
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request) and request.field_violations:
            return str(request.field_violations[0].field)
    return None
