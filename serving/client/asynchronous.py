"""The client on asyncio, without torch. What its arguments mean, `Client` says."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
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
Requests = (
    AsyncIterable[tuple[RequestId, pb.ClassifyRequest]] | Iterable[tuple[RequestId, pb.ClassifyRequest]]
)


class AsyncClient:
    """A client on asyncio; used in one event loop.

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
            grpc.aio.insecure_channel(to.target, to.arguments)
            if to.credentials is None
            else grpc.aio.secure_channel(to.target, to.credentials, to.arguments)
        )
        self._timeout_s = timeout_s
        self._stub = classifier_pb2_grpc.ClassifierStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection."""
        await self.channel.close()

    async def classify(
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
        """Classifies images; see `Client.classify`."""
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
        return await self.send(request, timeout_s=timeout_s)

    async def send(
        self, request: pb.ClassifyRequest, *, timeout_s: float | None = None
    ) -> pb.ClassifyResponse:
        """Sends a request that is made already; see `Client.send`."""
        return await self.call(self._stub.Classify, request, timeout_s=timeout_s)

    async def stream(
        self, requests: Requests, *, timeout_s: float | None = None
    ) -> AsyncIterator[tuple[RequestId, pb.ClassifyResponse | RequestFailed]]:
        """Sends many requests over one call; see `Client.stream`. Those of an async iterable too."""
        call = self._stub.ClassifyStream(timeout=timeout_s, metadata=self._endpoint.metadata)
        sending = asyncio.create_task(_send(call, requests))
        try:
            async for message in call:
                yield outcome_of(message)
        except grpc.aio.AioRpcError as error:
            raise failure(error, self._endpoint) from error
        else:
            await sending
        finally:
            call.cancel()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def embed(
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
        """Computes the features of images; see `Client.embed`."""
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
        return await self.call(self._stub.Embed, request, timeout_s=timeout_s)

    async def feedback(
        self,
        labels: Labels,
        *,
        source: Source = "user",
        revision: int = 0,
        timeout_s: float | None = None,
    ) -> pb.FeedbackResponse:
        """Sends what earlier predictions should have been; see `Client.feedback`."""
        response = pb.FeedbackResponse()
        for request in requests_of(labels, source=source, revision=revision):
            response.MergeFrom(await self.call(self._stub.Feedback, request, timeout_s=timeout_s))
        return response

    async def call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Asked, Answered]",
        request: Asked,
        *,
        timeout_s: float | None = None,
    ) -> Answered:
        """Calls any method of a stub over this client's channel; see `Client.call`."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            return await method(request, timeout=timeout_s, metadata=self._endpoint.metadata)
        except grpc.aio.AioRpcError as error:
            raise failure(error, self._endpoint) from error

    async def serving(self, *, timeout_s: float | None = None) -> bool:
        """Whether the server says that it is warm and takes requests."""
        stub = health_pb2_grpc.HealthStub(self.channel)
        try:
            reply = await self.call(stub.Check, health_pb2.HealthCheckRequest(), timeout_s=timeout_s)
        except RequestFailed:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


async def _send(
    call: "grpc.aio.StreamStreamCall[pb.StreamRequest, pb.StreamResponse]", requests: Requests
) -> None:
    """Sends requests as fast as they are taken, and the end of them, whatever ends them."""
    try:
        if isinstance(requests, AsyncIterable):
            async for request in requests:
                await call.write(stream_request_of(request))
        else:
            for request in requests:
                await call.write(stream_request_of(request))
    finally:
        await call.done_writing()
