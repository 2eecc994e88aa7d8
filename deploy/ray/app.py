"""The server as a Ray Serve application: `import_path: deploy.ray.app:build` in a Serve config.

Every replica runs a whole server (serving/server.py) on a Unix socket of its own. Calls come through Ray's
gRPC proxy as bytes, which neither the proxy nor the replica parses, and go on to that socket with their
metadata. So limits, tokens, metrics and errors are those of `corolla serve`.

The proxy imports this module: it imports torch only inside a replica.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import ray
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health_pb2
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from deploy.ray import lost
from deploy.ray.router import AdapterRouter
from petl_vit.errors import InvalidInput, near
from protos.corolla.v1 import admin_pb2, classifier_pb2
from protos.inference import grpc_service_pb2
from serving import address, process
from serving.settings import Settings

NAME = "Corolla"
SERVICES: tuple[ServiceDescriptor, ...] = (
    classifier_pb2.DESCRIPTOR.services_by_name["Classifier"],
    admin_pb2.DESCRIPTOR.services_by_name["Admin"],
    grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
)
_OF_EVERY_REPLICA = frozenset(
    {
        "LoadAdapter",
        "UnloadAdapter",
        "PinAdapter",
        "UnpinAdapter",
        "Reload",
        "AddDomain",
        "RepositoryModelLoad",
        "RepositoryModelUnload",
    }
)
"""Calls that change what one server has in memory: they are made to all replicas."""

_NOT_PROXIED = frozenset({"Watch"})
"""Watches of health last as long as their caller likes: each would hold one of a replica's places in Ray."""

_OF_THE_REPLICA = frozenset({"host", "port", "metrics_port", "socket_mode", "replica"})
_OF_THE_SIDECAR = frozenset({"tls_certificate", "tls_key", "tls_client_ca", "insecure"})
_HOP_BY_HOP = ("grpc-", ":")
_NOT_FORWARDED = frozenset({"user-agent", "content-type", "te"})
_HEALTH_S = 5.0
_MOST_REPORTED = 2_000
"""Adapters that a replica names to the router."""

_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))

Metadata = tuple[tuple[str, str | bytes], ...]


class _Raw:
    """A serialized message where Ray expects one to serialize."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def SerializeToString(self) -> bytes:
        return self._data


def add_services(_: object, server: Any) -> None:
    """Makes Ray's gRPC proxy take the calls of all protocols; an entry of `grpc_servicer_functions`."""
    server.service_handler_factory = lost.unavailable(server.service_handler_factory)
    for service in SERVICES:
        handlers = {method.name: _handler(method) for method in proxied(service)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
        server.add_registered_method_handlers(service.full_name, handlers)


def proxied(service: ServiceDescriptor) -> list[MethodDescriptor]:
    """The calls of a service that Ray takes; any other is UNIMPLEMENTED."""
    return [method for method in service.methods if method.name not in _NOT_PROXIED]


def _handler(method: MethodDescriptor) -> Any:
    """The handler of a call whose messages stay bytes; Ray puts its own function in."""
    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    return kinds[method.client_streaming, method.server_streaming](lambda request, context: None)


class Replica:
    """One server and what Ray Serve asks of it; `_answer` adds a method for every call.

    Args:
        flags: Settings of the server, by name.
    """

    async def __init__(self, flags: Mapping[str, Any]) -> None:  # type: ignore[misc]  # Ray awaits it
        self._all: DeploymentHandle[Any] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="corolla-")
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # replicas share the machine's cores
        process.bound_memory(os.environ)
        settings = _settings(flags, Path(self._folder.name) / "corolla.sock")
        from serving.server import Server

        self._server = server = Server(settings)
        ready = asyncio.Event()
        self._running = running = asyncio.create_task(server.run(ready))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if running.done():
            running.result()
        self._channel = grpc.aio.insecure_channel(server.address, options=_UNLIMITED)
        process.settle()

    async def check_health(self) -> None:
        """Fails while the server does not serve; Ray then starts another replica in its place."""
        check: Any = self._channel.unary_unary("/grpc.health.v1.Health/Check")
        reply = await check(b"", timeout=_HEALTH_S)
        status = health_pb2.HealthCheckResponse.FromString(reply).status
        if status != health_pb2.HealthCheckResponse.SERVING:
            raise RuntimeError("the server of this replica does not serve")

    def record_routing_stats(self) -> dict[str, Any]:
        """What the router needs to know: the adapters in memory, those used last first."""
        residents = sorted(self._server.service.adapter_cache.residents(), key=lambda it: -it.last_used_at)
        names = (name.partition(":")[0] for resident in residents for name in resident.names)
        full = list(dict.fromkeys(names))[:_MOST_REPORTED]
        return {"adapters": [*full, *dict.fromkeys(name.rpartition("/")[2] for name in full)]}

    async def __del__(self) -> None:
        """Drains the server; Ray awaits it once the replica's calls are answered."""
        self._server.stop()
        await self._running
        await self._channel.close()
        self._folder.cleanup()

    # Metrics

    def metrics_address(self) -> str:
        """HOST:PORT where this replica's metrics are scraped."""
        host = self._server.settings.scraped_host
        host = host if address.is_loopback(host) else ray.util.get_node_ip_address()
        return address.joined(host, self._server.metrics_port)

    async def __call__(self, request: Request) -> Response:
        """Answers `/targets` with all replicas' metrics, as http_sd_configs of Prometheus read it."""
        if request.url.path.rstrip("/").rpartition("/")[2] != "targets":
            return PlainTextResponse("ask for /targets; predictions are served over gRPC\n", status_code=404)
        found = await self._of_all("metrics_address", timeout_s=_HEALTH_S)
        labels = {"__meta_corolla_application": serve.get_replica_context().app_name}
        return JSONResponse([{"targets": sorted(filter(None, found)), "labels": labels}])

    async def _of_all(self, method: str, *args: Any, timeout_s: float | None = None) -> list[Any]:
        """What every replica returns, in any order; None for one that died meanwhile."""
        if self._all is None:
            context = serve.get_replica_context()
            self._all = serve.get_deployment_handle(context.deployment, context.app_name)
        asked = self._all.broadcast(method, *args)
        found = []
        for result in await asked.results_async(timeout_s=timeout_s, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, RayActorError):
                raise result
            found.append(None if isinstance(result, RayActorError) else result)
        return found

    # Calls

    async def call(self, path: str, request: bytes, metadata: Metadata) -> "_Answer":
        """Makes a call to this replica's own server."""
        make: Any = self._channel.unary_unary(path)
        call = make(request, metadata=metadata)
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            return b"", error.code(), error.details() or "", tuple(error.trailing_metadata() or ())
        return answer, grpc.StatusCode.OK, "", tuple(await call.trailing_metadata() or ())

    async def call_all(self, path: str, request: bytes, metadata: Metadata) -> "_Answer":
        """Makes a call to every replica; the first that failed, else the first, is the answer."""
        died: _Answer = (b"", grpc.StatusCode.UNAVAILABLE, lost.DETAILS, ())
        answers = [answer or died for answer in await self._of_all("call", path, request, metadata)]
        failed = (answer for answer in answers if answer[1] is not grpc.StatusCode.OK)
        return next(failed, answers[0])

    def stream(self, path: str, requests: AsyncIterator[bytes], metadata: Metadata) -> Any:
        """A call with two streams to this replica's own server, as gRPC returns it."""
        make: Any = self._channel.stream_stream(path)
        return make(requests, metadata=metadata)


def _settings(flags: Mapping[str, Any], socket: Path) -> Settings:
    """As many threads as Ray gave CPUs, and administration only for known callers, unless flags say."""
    cpus = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))
    chosen = {"threads": max(1, cpus), "admin": flags.get("principals") is not None} | dict(flags)
    name = serve.get_replica_context().replica_tag
    return Settings.read(chosen | {"host": f"{address.UNIX}{socket}", "metrics_port": 0, "replica": name})


_Answer = tuple[bytes, grpc.StatusCode, str, Metadata]


def _answer(service: ServiceDescriptor, method: MethodDescriptor) -> Callable[..., Any]:
    """The method of `Replica` that Ray calls for a call: their names are the same."""
    path = f"/{service.full_name}/{method.name}"

    async def unary(self: Replica, request: bytes, grpc_context: Any) -> _Raw:
        make = self.call_all if method.name in _OF_EVERY_REPLICA else self.call
        answer, code, details, trailing = await make(path, request, _forwarded(grpc_context))
        _finish(grpc_context, code, details, trailing)
        return _Raw(answer)

    async def streaming(self: Replica, request: Any, grpc_context: Any) -> AsyncIterator[_Raw]:
        requests = request if method.client_streaming else _one(request)
        call = self.stream(path, requests, _forwarded(grpc_context))
        try:
            async for answer in call:
                yield _Raw(answer)
        except grpc.aio.AioRpcError as error:
            _finish(grpc_context, error.code(), error.details() or "", ())
            # What is set after the last message reaches the proxy only beside an error.
            raise RuntimeError(error.details()) from None
        finally:
            call.cancel()

    made: Callable[..., Any] = streaming if method.server_streaming else unary
    made.__name__ = method.name
    return made


async def _one(request: bytes) -> AsyncIterator[bytes]:
    yield request


def _forwarded(context: Any) -> Metadata:
    return tuple(
        (key, value)
        for key, value in context.invocation_metadata()
        if key not in _NOT_FORWARDED and not key.startswith(_HOP_BY_HOP)
    )


def _finish(context: Any, code: grpc.StatusCode, details: str, trailing: Metadata) -> None:
    context.set_trailing_metadata([*trailing])
    if code is not grpc.StatusCode.OK:
        context.set_code(code)
        context.set_details(details)


for _service in SERVICES:
    for _method in proxied(_service):
        setattr(Replica, _method.name, _answer(_service, _method))


deployment = serve.deployment(
    name=NAME,
    # Calls wait in the servers' fair queues, not in Ray's: far more than one forward takes.
    max_ongoing_requests=256,
    max_queued_requests=1024,
    graceful_shutdown_timeout_s=60,
    health_check_period_s=5,
    request_router_config=RequestRouterConfig(
        request_router_class=AdapterRouter, request_routing_stats_period_s=2
    ),
)(Replica)
"""Its defaults; `deployments:` of a Serve config overrides them."""


def build(args: Mapping[str, Any]) -> serve.Application:
    """The application of a Serve config.

    Args:
        args: Settings of `corolla serve` by name, such as `store` and `prediction_key_file`.

    Raises:
        InvalidInput: A setting is unknown, wrong, or not for replicas; names it.
    """
    for name in args:
        if name in _OF_THE_REPLICA:
            raise InvalidInput("every replica chooses it", field=name, remedy="leave it out of args")
        if name in _OF_THE_SIDECAR:
            remedy = "leave it out, and end TLS in front of Ray's proxy (deploy/ray/README.md)"
            raise InvalidInput("Ray's gRPC proxy speaks no TLS", field=name, remedy=remedy)
        if name not in Settings.model_fields:
            remedy = near(name, Settings.model_fields) or "`corolla serve --help` lists them"
            raise InvalidInput("not a setting of `corolla serve`", field=name, remedy=remedy)
    if not args.get("store"):
        remedy = "name the store that all replicas read, e.g. store: s3://models/corolla"
        raise InvalidInput("the replicas have no store", field="store", remedy=remedy)
    Settings.read(args)
    return deployment.bind(dict(args))
