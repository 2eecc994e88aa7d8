"""The blocking client, without torch: `pip install 'corolla[client]'`.

    with corolla.Client("localhost:50051") as client:
        answer = client.classify([open("a.jpg", "rb").read()], route="0.6*lora, ssf", task="digits")
        print(answer.results[0].top[0].class_name)

`AsyncClient` is the same on asyncio, and `AdminClient(client)` looks into the server and changes it. Errors
of the server arrive as `RequestFailed` with its code, the field and the remedy.

Many requests go fastest through one stream, whose answers come as they are done:

    requests = ((path, request_of([open(path, "rb").read()], route="lora")) for path in paths)
    for path, answer in client.stream(requests):
        ...
"""

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.corolla.v1 import classifier_pb2 as pb
from protos.corolla.v1 import classifier_pb2_grpc
from serving.client.channel import ChannelOptions, Endpoint
from serving.client.labels import Labels, Source, requests_of
from serving.client.messages import (
    DEFAULT_ADDRESS,
    TIMEOUT_S,
    Priority,
    RequestFailed,
    RequestId,
    embed_request_of,
    failure,
    outcome_of,
    request_of,
    stream_request_of,
)
from serving.client.token import Token

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class Client:
    """A blocking client; safe to share between threads.

    Args:
        address: HOST:PORT, or `unix:/path` of a socket.
        credentials: For TLS; None speaks plain text.
        server_name: The name that the server's certificate has, where it is not the address's host; TLS is
            then spoken, without credentials by the authorities that gRPC brings along.
        options: Channel arguments of gRPC, such as ("grpc.keepalive_time_ms", 10_000); they go before ours.
        timeout_s: Deadline of a call that says none of its own, seconds; the server honours it.
        token: The bearer token that calls of this client show, as text, or as the `pathlib.Path` of a file,
            which is read again when it changes. It leaves the machine over TLS only. Stubs that are called
            without `call` send it where their metadata has it.
        insecure: Send the token in plain text, too, on a network that you trust.

    Raises:
        NotFound: The token's file does not exist.
        InvalidInput: The address is a URL, or has no port; or the token is not one, or others could read it.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        server_name: str | None = None,
        options: ChannelOptions = (),
        timeout_s: float = TIMEOUT_S,
        token: Token | None = None,
        insecure: bool = False,
    ) -> None:
        plain = Endpoint.of(address, credentials, server_name, options)
        self._endpoint = to = plain.showing(token, insecure=insecure)
        self.channel = (
            grpc.insecure_channel(to.target, to.arguments)
            if to.credentials is None
            else grpc.secure_channel(to.target, to.credentials, to.arguments)
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
        """Ends the connection."""
        self.channel.close()

    def classify(
        self,
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
        timeout_s: float | None = None,
    ) -> pb.ClassifyResponse:
        """Classifies images.

        Args:
            images: Encoded images: JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, or HEIC.
            route: What answers, as text (`lora`, `0.6*lora, ssf`, the name of a route) or typed.
            task: Whose classes, in their order, are answered; empty is the only task of the server's store,
                or that of the first member of a route that names tasks.
            domain: Where the images come from, for the metrics; the answer's `domain` is how it was counted.
            top_k: How many of the most probable classes each result has; 0 is 5.
            tensor: A uint8 [n, H, W, 3] or float32 [n, 3, S, S] array instead of images (anything with
                `dtype`, `shape` and `tobytes`); float32 is taken as preprocessed.
            probabilities: Whether results have the probability of every class.
            members: Whether results have what each member of the route said; one that a cascade did not ask
                is listed without its `top`.
            extrapolate: Whether an alpha may be outside [0, 1].
            ids: Names of the images, echoed in the results.
            priority: Its share of a busy engine; None is `normal`.
            client: Who asks: clients share a busy engine fairly. Empty is the connection.
            timeout_s: Deadline of this call, seconds; None is the client's.

        Returns:
            One result for each image, in order; that of a bad image has an `error`.

        Raises:
            RequestFailed: The call as a whole failed.
            InvalidInput: Images or a tensor that are not what they should be.
        """
        request = request_of(
            images,
            route=route,
            task=task,
            domain=domain,
            top_k=top_k,
            tensor=tensor,
            probabilities=probabilities,
            members=members,
            extrapolate=extrapolate,
            ids=ids,
            priority=priority,
            client=client,
        )
        return self.send(request, timeout_s=timeout_s)

    def send(self, request: pb.ClassifyRequest, *, timeout_s: float | None = None) -> pb.ClassifyResponse:
        """Sends a request that is made already, as by `request_of`.

        Raises:
            RequestFailed: The call failed.
        """
        return self.call(self._stub.Classify, request, timeout_s=timeout_s)

    def stream(
        self, requests: Iterable[tuple[RequestId, pb.ClassifyRequest]], *, timeout_s: float | None = None
    ) -> Iterator[tuple[RequestId, pb.ClassifyResponse | RequestFailed]]:
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
        call = self._stub.ClassifyStream(iter(given), timeout=timeout_s, metadata=self._endpoint.metadata)
        try:
            for message in call:
                yield outcome_of(message)
        except grpc.RpcError as error:
            raise failure(error, self._endpoint) from error
        finally:
            call.cancel()
        if given.error is not None:
            raise given.error

    def embed(
        self,
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
        timeout_s: float | None = None,
    ) -> pb.EmbedResponse:
        """Computes the features of images, [D] each; what it does not say is as in `classify`.

        Args:
            route: One model whose edits the features are under; empty is the frozen backbone.
            task: How images are preprocessed; empty is the only task of the server's store.
            normalise: Whether every vector is divided by its length.

        Returns:
            One result for each image, in order; that of a bad image has an `error`.

        Raises:
            RequestFailed: The call as a whole failed.
            InvalidInput: Images or a tensor that are not what they should be.
        """
        request = embed_request_of(
            images,
            route=route,
            task=task,
            tensor=tensor,
            normalise=normalise,
            extrapolate=extrapolate,
            ids=ids,
            priority=priority,
            client=client,
        )
        return self.call(self._stub.Embed, request, timeout_s=timeout_s)

    def feedback(
        self,
        labels: Labels,
        *,
        source: Source = "user",
        revision: int = 0,
        timeout_s: float | None = None,
    ) -> pb.FeedbackResponse:
        """Sends what earlier predictions should have been; safe to repeat.

        Args:
            labels: Any number of `corolla.Label`, or of pairs of a result's `prediction_id` and the true
                class by name or index: several in a list where it is one of them, None where nobody can
                tell. They are sent in calls of 1000.
            source: Who says so, of pairs: `gold`, `user`, `downstream` or `implicit`.
            revision: Of pairs; a higher one replaces what this source said before.
            timeout_s: Deadline of each call, seconds; None is the client's.

        Returns:
            What became of each label, in order; see `serving.client.labels.status_name`.

        Raises:
            RequestFailed: A call failed; the labels of those before it are counted, and again they are
                duplicates.
            InvalidInput: A label that is not what it should be.
        """
        response = pb.FeedbackResponse()
        for request in requests_of(labels, source=source, revision=revision):
            response.MergeFrom(self.call(self._stub.Feedback, request, timeout_s=timeout_s))
        return response

    def call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Asked, Answered]",
        request: Asked,
        *,
        timeout_s: float | None = None,
    ) -> Answered:
        """Calls any method of a stub over this client's channel.

        Args:
            timeout_s: Deadline of this call, seconds; None is the client's.

        Raises:
            RequestFailed: The call failed.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            return method(request, timeout=timeout_s, metadata=self._endpoint.metadata)
        except grpc.RpcError as error:
            raise failure(error, self._endpoint) from error

    def serving(self, *, timeout_s: float | None = None) -> bool:
        """Whether the server says that it is warm and takes requests."""
        stub = health_pb2_grpc.HealthStub(self.channel)
        try:
            reply = self.call(stub.Check, health_pb2.HealthCheckRequest(), timeout_s=timeout_s)
        except RequestFailed:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


class _Given:
    """Requests that a stream takes; they end where taking one fails, and why is kept: gRPC would not tell."""

    def __init__(self, requests: Iterable[tuple[RequestId, pb.ClassifyRequest]]) -> None:
        self._requests = requests
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[pb.StreamRequest]:
        try:
            for request in self._requests:
                yield stream_request_of(request)
        except Exception as error:
            self.error = error
