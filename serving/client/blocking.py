"""The client for programs, without torch: `pip install 'corolla[client]'`.

    with Client("localhost:50051") as client:
        answer = client.classify([open("a.jpg", "rb").read()], route="0.6*lora, ssf", task="digits")
        print(answer.results[0].top[0].class_name)

`AsyncClient` is the same on asyncio, and `AdminClient(client)` looks into the server and changes it. Errors
of the server arrive as `RequestFailed` with its code, the field and the remedy.

Many requests go fastest through one stream, whose answers come as they are done:

    requests = ((path, request_of([open(path, "rb").read()], route="lora")) for path in paths)
    for path, answer in client.stream(requests):
        ...
"""

import asyncio
import sys
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from petl_vit.errors import CorollaError
from protos.corolla.v1 import admin_pb2, admin_pb2_grpc, classifier_pb2_grpc
from protos.corolla.v1 import classifier_pb2 as pb

DEFAULT_ADDRESS = "127.0.0.1:50051"
_MAX_MESSAGE_BYTES = 256 * 2**20
_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
]


Priority = Literal["low", "normal", "high"]
_PRIORITIES = {"low": pb.PRIORITY_LOW, "normal": pb.PRIORITY_NORMAL, "high": pb.PRIORITY_HIGH}

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")
_Id = str


class RequestFailed(CorollaError):
    """The server refused or could not answer a request.

    Attributes:
        code: gRPC's status code by name, e.g. `NOT_FOUND`.
    """

    def __init__(self, code: str, problem: str, *, field: str | None = None) -> None:
        super().__init__(problem, field=None)
        self.code, self.named_field = code, field


def request_of(
    images: Sequence[bytes] = (),
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
    """A request from plain values.

    Args:
        images: Encoded JPEG, PNG or WebP.
        route: As text, or typed.
        tensor: A uint8 [n, H, W, 3] or float32 [n, 3, S, S] array instead of images (anything with
            `dtype`, `shape` and `tobytes`).
        ids: Names of the images, echoed in the answer.
        priority: Its share of a busy engine; None is `normal`.
        client: Who asks: clients share a busy engine fairly. Empty is the connection.
    """
    request = pb.ClassifyRequest(
        task=task,
        images=_images(images, ids),
        domain=domain,
        top_k=top_k,
        want_probabilities=probabilities,
        want_members=members,
        allow_extrapolation=extrapolate,
        priority=pb.PRIORITY_UNSPECIFIED if priority is None else _PRIORITIES[priority],
        client=client,
    )
    if isinstance(route, str):
        request.route = route
    else:
        request.typed_route.CopyFrom(route)
    if tensor is not None:
        request.tensor.CopyFrom(_tensor(tensor))
    return request


def embed_request_of(
    images: Sequence[bytes] = (),
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
    """An embedding request from plain values; see `request_of` for what they share.

    Args:
        route: One model whose edits the features are under; empty is the frozen backbone.
        normalise: Divide every vector by its length.
    """
    request = pb.EmbedRequest(
        task=task,
        images=_images(images, ids),
        normalise=normalise,
        allow_extrapolation=extrapolate,
        priority=pb.PRIORITY_UNSPECIFIED if priority is None else _PRIORITIES[priority],
        client=client,
    )
    if not isinstance(route, str):
        request.typed_route.CopyFrom(route)
    elif route:
        request.route = route
    if tensor is not None:
        request.tensor.CopyFrom(_tensor(tensor))
    return request


def _images(images: Sequence[bytes], ids: Sequence[str]) -> list[pb.Image]:
    names = list(ids) or [""] * len(images)
    return [pb.Image(data=data, id=name) for data, name in zip(images, names, strict=True)]


def _tensor(array: Any) -> pb.Tensor:
    dtypes = {"uint8": pb.Tensor.DATA_TYPE_UINT8, "float32": pb.Tensor.DATA_TYPE_FLOAT32}
    name = str(array.dtype)
    if name not in dtypes:
        raise CorollaError(f"dtype {name}", field="tensor", remedy="send uint8 or float32")
    return pb.Tensor(dtype=dtypes[name], shape=list(array.shape), data=array.tobytes())


def feedback_of(labels: Iterable[tuple[str, str | int]]) -> pb.FeedbackRequest:
    """A feedback request from (prediction id, class name or index) pairs."""
    request = pb.FeedbackRequest()
    for prediction_id, truth in labels:
        label = request.labels.add(prediction_id=prediction_id)
        if isinstance(truth, str):
            label.class_name = truth
        else:
            label.class_index = truth
    return request


def status_name(result: pb.LabelResult) -> str:
    """What became of a label, in lower case: `counted`, `duplicate`, `invalid_token`, `invalid_class`."""
    return pb.FeedbackStatus.Name(result.status).removeprefix("FEEDBACK_STATUS_").lower()


def failure(error: grpc.RpcError) -> RequestFailed:
    """The error of a failed call with what the server said about it."""
    # A failed call is its own error, on asyncio too; what cannot say its trailing metadata has none.
    status = rpc_status.from_call(error) if hasattr(error, "trailing_metadata") else None
    return RequestFailed(error.code().name, error.details() or "no details", field=_field(status))


def _field(status: status_pb2.Status | None) -> str | None:
    """The field that a status is about."""
    details: Iterable[Any] = status.details if status is not None else ()
    for detail in details:
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request) and request.field_violations:
            return str(request.field_violations[0].field)
    return None


def _message(request: tuple[_Id, pb.ClassifyRequest]) -> pb.StreamRequest:
    return pb.StreamRequest(id=request[0], request=request[1])


def _outcome(message: pb.StreamResponse) -> "tuple[_Id, pb.ClassifyResponse | RequestFailed]":
    """The id of a request and what became of it."""
    if message.WhichOneof("outcome") == "response":
        return message.id, message.response
    error = message.error
    return message.id, RequestFailed(code_pb2.Code.Name(error.code), error.message, field=_field(error))


class Client:
    """A blocking client; safe to share between threads.

    Args:
        address: HOST:PORT.
        credentials: For TLS; None speaks plain text.
        timeout_s: Deadline of every call, seconds; the server honours it.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self.channel = (
            grpc.insecure_channel(address, _OPTIONS)
            if credentials is None
            else grpc.secure_channel(address, credentials, _OPTIONS)
        )
        self._timeout_s = timeout_s
        self._stub = classifier_pb2_grpc.ClassifierStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.channel.close()

    def classify(self, images: Sequence[bytes] = (), **options: Any) -> pb.ClassifyResponse:
        """Classifies images; see `request_of` for the options.

        Raises:
            RequestFailed: The call as a whole failed. One bad image does not: its result has an error.
        """
        return self.send(request_of(images, **options))

    def send(self, request: pb.ClassifyRequest) -> pb.ClassifyResponse:
        """Sends a request that is made already.

        Raises:
            RequestFailed: The call failed.
        """
        return self.call(self._stub.Classify, request)

    def stream(
        self, requests: Iterable[tuple[_Id, pb.ClassifyRequest]], *, timeout_s: float | None = None
    ) -> Iterator[tuple[_Id, pb.ClassifyResponse | RequestFailed]]:
        """Sends requests as they are taken, and gives the answers as they come, in any order.

        Requests are taken no faster than their answers are read; leaving the iterator ends the stream.

        Args:
            requests: Pairs of an id of the caller's, which comes back with its answer, and a request; taken
                in another thread.
            timeout_s: Deadline of the whole stream, seconds; None for none.

        Yields:
            The id and the answer, or why this request alone failed.

        Raises:
            RequestFailed: The stream as a whole failed.
            Exception: What `requests` raised, after the answers to what it gave before.
        """
        given = _Given(requests)
        call = self._stub.ClassifyStream(iter(given), timeout=timeout_s)
        try:
            for message in call:
                yield _outcome(message)
        except grpc.RpcError as error:
            raise failure(error) from error
        finally:
            call.cancel()
        if given.error is not None:
            raise given.error

    def embed(self, images: Sequence[bytes] = (), **options: Any) -> pb.EmbedResponse:
        """The features of images; see `embed_request_of` for the options.

        Raises:
            RequestFailed: The call as a whole failed. One bad image does not: its result has an error.
        """
        return self.call(self._stub.Embed, embed_request_of(images, **options))

    def feedback(self, labels: Iterable[tuple[str, str | int]]) -> pb.FeedbackResponse:
        """Sends the true class, by name or index, of earlier predictions.

        Raises:
            RequestFailed: The call failed.
        """
        return self.call(self._stub.Feedback, feedback_of(labels))

    def call(self, method: "grpc.UnaryUnaryMultiCallable[Asked, Answered]", request: Asked) -> Answered:
        """Calls any method of a stub over this client's channel.

        Raises:
            RequestFailed: The call failed.
        """
        try:
            return method(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise failure(error) from error

    def serving(self) -> bool:
        """Whether the server says that it is warm and takes requests."""
        try:
            stub = health_pb2_grpc.HealthStub(self.channel)
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=self._timeout_s)
        except grpc.RpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


class _Given:
    """Requests that a stream takes; they end where taking one fails, and why is kept: gRPC would not tell."""

    def __init__(self, requests: Iterable[tuple[_Id, pb.ClassifyRequest]]) -> None:
        self._requests = requests
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[pb.StreamRequest]:
        try:
            for request in self._requests:
                yield _message(request)
        except Exception as error:
            self.error = error


class AdminClient:
    """Looks into a server and changes it, over a client's channel. Every call raises `RequestFailed`.

    Adapters are named as in a route: `lora`, `lora:3`, `lora@prod`, `digits/lora`. An empty task means the
    only one that the server's store has.
    """

    def __init__(self, client: Client) -> None:
        self._call = client.call
        self._stub = admin_pb2_grpc.AdminStub(client.channel)

    def list_adapters(self, *, task: str = "", resident_only: bool = False) -> admin_pb2.ListAdaptersResponse:
        """The adapters that the server's store has, or that are in memory."""
        request = admin_pb2.ListAdaptersRequest(task=task, resident_only=resident_only)
        return self._call(self._stub.ListAdapters, request)

    def load_adapter(self, adapter: str, *, task: str = "") -> admin_pb2.AdapterState:
        """Loads an adapter, verified."""
        return self._call(self._stub.LoadAdapter, admin_pb2.LoadAdapterRequest(adapter=adapter, task=task))

    def unload_adapter(self, adapter: str, *, task: str = "") -> admin_pb2.UnloadAdapterResponse:
        """Frees an adapter's memory."""
        request = admin_pb2.UnloadAdapterRequest(adapter=adapter, task=task)
        return self._call(self._stub.UnloadAdapter, request)

    def pin_adapter(self, adapter: str, *, task: str = "") -> admin_pb2.AdapterState:
        """Loads an adapter and keeps it in memory."""
        return self._call(self._stub.PinAdapter, admin_pb2.PinAdapterRequest(adapter=adapter, task=task))

    def unpin_adapter(self, adapter: str, *, task: str = "") -> admin_pb2.AdapterState:
        """Lets a pinned adapter go when its memory is needed."""
        return self._call(self._stub.UnpinAdapter, admin_pb2.UnpinAdapterRequest(adapter=adapter, task=task))

    def list_aliases(self, *, task: str = "") -> admin_pb2.ListAliasesResponse:
        """The aliases of adapters."""
        return self._call(self._stub.ListAliases, admin_pb2.ListAliasesRequest(task=task))

    def set_alias(
        self, adapter: str, alias: str, version: int, *, task: str = "", expected: int | None = None
    ) -> admin_pb2.SetAliasResponse:
        """Points an alias at a version; with `expected`, only if it points at that one now."""
        request = admin_pb2.SetAliasRequest(
            adapter=adapter, alias=alias, version=version, task=task, expected_version=expected
        )
        return self._call(self._stub.SetAlias, request)

    def list_routes(self, *, task: str = "") -> admin_pb2.ListRoutesResponse:
        """The named routes."""
        return self._call(self._stub.ListRoutes, admin_pb2.ListRoutesRequest(task=task))

    def put_route(
        self,
        name: str,
        route: str,
        *,
        task: str = "",
        temperature: float | None = None,
        extrapolate: bool = False,
    ) -> admin_pb2.PutRouteResponse:
        """Keeps a route under a name; a temperature of None is the fitted one of a single adapter, else 1."""
        request = admin_pb2.PutRouteRequest(
            name=name, route=route, task=task, temperature=temperature, extrapolate=extrapolate
        )
        return self._call(self._stub.PutRoute, request)

    def delete_route(self, name: str, *, task: str = "") -> admin_pb2.DeleteRouteResponse:
        """Forgets a named route."""
        return self._call(self._stub.DeleteRoute, admin_pb2.DeleteRouteRequest(name=name, task=task))

    def reload(self) -> admin_pb2.ReloadResponse:
        """Makes the server forget what names meant, and ask its store for all of it again."""
        return self._call(self._stub.Reload, admin_pb2.ReloadRequest())


class AsyncClient:
    """The same on asyncio."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self.channel = (
            grpc.aio.insecure_channel(address, _OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, _OPTIONS)
        )
        self._timeout_s = timeout_s
        self._stub = classifier_pb2_grpc.ClassifierStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.channel.close()

    async def classify(self, images: Sequence[bytes] = (), **options: Any) -> pb.ClassifyResponse:
        """See `Client.classify`."""
        try:
            return await self._stub.Classify(request_of(images, **options), timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise failure(error) from error

    async def stream(
        self,
        requests: AsyncIterable[tuple[_Id, pb.ClassifyRequest]] | Iterable[tuple[_Id, pb.ClassifyRequest]],
        *,
        timeout_s: float | None = None,
    ) -> AsyncIterator[tuple[_Id, pb.ClassifyResponse | RequestFailed]]:
        """See `Client.stream`."""
        call = self._stub.ClassifyStream(timeout=timeout_s)
        sending = asyncio.create_task(_send(call, requests))
        try:
            async for message in call:
                yield _outcome(message)
        except grpc.aio.AioRpcError as error:
            raise failure(error) from error
        else:
            await sending
        finally:
            call.cancel()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def embed(self, images: Sequence[bytes] = (), **options: Any) -> pb.EmbedResponse:
        """See `Client.embed`."""
        try:
            return await self._stub.Embed(embed_request_of(images, **options), timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise failure(error) from error

    async def feedback(self, labels: Iterable[tuple[str, str | int]]) -> pb.FeedbackResponse:
        """See `Client.feedback`."""
        try:
            return await self._stub.Feedback(feedback_of(labels), timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise failure(error) from error


async def _send(
    call: "grpc.aio.StreamStreamCall[pb.StreamRequest, pb.StreamResponse]",
    requests: AsyncIterable[tuple[_Id, pb.ClassifyRequest]] | Iterable[tuple[_Id, pb.ClassifyRequest]],
) -> None:
    """Sends requests as fast as they are taken, and the end of them, whatever ends them."""
    try:
        if isinstance(requests, AsyncIterable):
            async for request in requests:
                await call.write(_message(request))
        else:
            for request in requests:
                await call.write(_message(request))
    finally:
        await call.done_writing()


def main(arguments: Sequence[str]) -> int:
    """`python -m serving.client.blocking health [HOST:PORT]`: 0 when serving, for container health checks."""
    if not arguments or arguments[0] != "health":
        print("usage: python -m serving.client.blocking health [HOST:PORT]", file=sys.stderr)
        return 2
    address = arguments[1] if len(arguments) > 1 else DEFAULT_ADDRESS
    with Client(address, timeout_s=3.0) as client:
        return 0 if client.serving() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
