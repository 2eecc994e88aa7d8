"""The thin servicer of the Open Inference Protocol: protobuf to the terms of `requests`, and back."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Executor
from importlib.metadata import version
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError

from model_store.resolution.versions import ResolvedRoute
from petl_vit.errors import CorollaError, Corrupt, Forbidden, InvalidInput, NotFound
from protos.inference import grpc_service_pb2 as pb
from protos.inference import grpc_service_pb2_grpc
from serving.answer.classifier import Classifier
from serving.metrics.events import Metrics
from serving.oip.requests import (
    PLATFORM,
    Inference,
    Inferred,
    Parameter,
    Parameters,
    inferred,
    request_of,
    reworded,
    target,
    version_of,
)
from serving.oip.tensors import COLUMNS, INPUT, Input, Wanted
from serving.registry.admin import AdapterState, Admin, RouteState
from serving.registry.catalog import Catalog
from serving.request import Request
from serving.rpc.call import call, counted
from serving.rpc.stream import answer_all

T = TypeVar("T")
Asked = TypeVar("Asked")
Answered = TypeVar("Answered")

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_EXTENSIONS = ("model_configuration", "model_repository", "parameters", "classification", "schedule_policy")
_SHARED = "shared_memory_region"
_TRITON_TYPES = {"BYTES": pb.TYPE_STRING, "FP32": pb.TYPE_FP32, "INT64": pb.TYPE_INT64}


class OipServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves inference.GRPCInferenceService.

    Args:
        admin: Lists, loads and unloads adapters.
        takes_admin: Whether whoever asks may load and unload them.
        ready: Whether the server takes requests now.
        pool: Threads for what computes.
        admin_pool: Threads for what loads and lists, which keeps nobody else waiting.
        max_images: Most images of one request.
        max_stream_requests: Requests of one stream that are under way at once.
    """

    def __init__(
        self,
        *,
        classifier: Classifier,
        catalog: Catalog,
        admin: Admin,
        takes_admin: bool,
        ready: Callable[[], bool],
        metrics: Metrics,
        pool: Executor,
        admin_pool: Executor,
        max_images: int,
        max_stream_requests: int,
    ) -> None:
        self._classifier, self._catalog, self._ready = classifier, catalog, ready
        self._admin, self._takes_admin = admin, takes_admin
        self._metrics, self._pool, self._admin_pool = metrics, pool, admin_pool
        self._max_images, self._max_stream_requests = max_images, max_stream_requests

    def add_to(self, server: grpc.aio.Server) -> None:
        """Makes a server answer the service's calls."""
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, server)

    # The server

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Any) -> pb.ServerLiveResponse:
        async with call("ServerLive", context, self._metrics):
            return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Any) -> pb.ServerReadyResponse:
        async with call("ServerReady", context, self._metrics):
            return pb.ServerReadyResponse(ready=self._ready())

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Any
    ) -> pb.ServerMetadataResponse:
        async with call("ServerMetadata", context, self._metrics):
            return pb.ServerMetadataResponse(
                name=PLATFORM, version=version("corolla"), extensions=_EXTENSIONS
            )

    # Models

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Any) -> pb.ModelReadyResponse:
        return await self._answer("ModelReady", context, self._model_ready, request)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Any) -> pb.ModelMetadataResponse:
        return await self._answer("ModelMetadata", context, self._model_metadata, request)

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Any) -> pb.ModelConfigResponse:
        return await self._answer("ModelConfig", context, self._model_config, request)

    # Inference

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        async with call("ModelInfer", context, self._metrics):
            return await self._infer(request, context)

    async def ModelStreamInfer(  # type: ignore[override]  # it writes to the context
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Any
    ) -> None:
        async def answer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            with counted("ModelStreamInfer", context, self._metrics) as outcome:
                try:
                    response = await self._infer(request, context)
                except Exception as error:
                    message = outcome.fail(error).message
                    failed = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
                    return pb.ModelStreamInferResponse(
                        error_message=f"{outcome.code.name}: {message}", infer_response=failed
                    )
                response.parameters["triton_final_response"].bool_param = True
                return pb.ModelStreamInferResponse(infer_response=response)

        try:
            await answer_all(_read(requests), in_order(answer), context.write, most=self._max_stream_requests)
        except CorollaError:
            async with call("ModelStreamInfer", context, self._metrics):
                raise

    async def _infer(self, message: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        asked, request = await self._in(self._pool, self._asked, message, deadline, context.peer())
        try:
            return await self._classifier.classify(
                request, lambda response: _response(message, inferred(asked, response))
            )
        except CorollaError as error:
            raise reworded(error, asked.version, asked.parameters) from error

    def _asked(
        self, message: pb.ModelInferRequest, deadline: float | None, peer: str
    ) -> tuple[Inference, Request]:
        asked = _inference(message)
        return asked, request_of(asked, max_images=self._max_images, deadline=deadline, peer=peer)

    # The repository

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Any
    ) -> pb.RepositoryIndexResponse:
        async with call("RepositoryIndex", context, self._metrics):
            return await self._in(self._admin_pool, self._index, request)
        raise AssertionError("a failed call was not aborted")

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Any
    ) -> pb.RepositoryModelLoadResponse:
        async with call("RepositoryModelLoad", context, self._metrics):
            self._check_admin()
            await self._in(self._admin_pool, self._load, request)
            return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Any
    ) -> pb.RepositoryModelUnloadResponse:
        async with call("RepositoryModelUnload", context, self._metrics):
            self._check_admin()
            await self._in(self._admin_pool, self._unload, request)
            return pb.RepositoryModelUnloadResponse()

    def _check_admin(self) -> None:
        if not self._takes_admin:
            raise Forbidden(
                "this server takes no administration",
                remedy="start it with --admin, or with --tls-client-ca for clients with certificates",
            )

    # In the pool

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            self._resolved(request.name, request.version)
        except (NotFound, Corrupt):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._ready())

    def _model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        resolved = self._resolved(request.name, request.version)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=self._versions(resolved),
            platform=PLATFORM,
            inputs=[tensor(name=INPUT, datatype="BYTES", shape=[-1, 1])],
            outputs=[
                tensor(name=c.name, datatype=c.datatype, shape=[-1, *c.shape(len(resolved.classes))])
                for c in COLUMNS.values()
            ],
        )

    def _model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        resolved = self._resolved(request.name, request.version)
        config = pb.ModelConfig(
            name=request.name,
            platform=PLATFORM,
            backend=PLATFORM,
            max_batch_size=self._max_images,
            input=[pb.ModelInput(name=INPUT, data_type=pb.TYPE_STRING, dims=[1])],
            output=[
                pb.ModelOutput(
                    name=c.name, data_type=_TRITON_TYPES[c.datatype], dims=c.shape(len(resolved.classes))
                )
                for c in COLUMNS.values()
            ],
            dynamic_batching=pb.ModelDynamicBatching(priority_levels=3, default_priority_level=2),
            model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
        )
        return pb.ModelConfigResponse(config=config)

    def _index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        models = [
            *map(_route_listed, self._admin.routes()),
            *(_adapter_listed(state) for state in self._admin.adapters().adapters if state.stored),
        ]
        return pb.RepositoryIndexResponse(
            models=[model for model in models if model.state == "READY" or not request.ready]
        )

    def _load(self, request: pb.RepositoryModelLoadRequest) -> None:
        for name in request.parameters:
            if name == "config" or name.startswith("file:"):
                raise InvalidInput(
                    "models come from the store alone",
                    field=f"parameters[{name[:80]}]",
                    remedy="publish the adapter to the store",
                )
        for term in self._resolved(request.model_name, "").terms():
            self._admin.load(term.full_name)

    def _unload(self, request: pb.RepositoryModelUnloadRequest) -> None:
        for term in self._resolved(request.model_name, "").terms():
            self._admin.unload(term.full_name)

    def _versions(self, resolved: ResolvedRoute) -> list[str]:
        """Those of the adapter, where the route is one."""
        at = version_of(resolved)
        if not at:
            return []
        (term,) = resolved.terms()
        name = term.label.partition(":")[0]
        return [str(version) for version in self._catalog.store.adapters.versions(term.task.spec.name, name)]

    def _resolved(self, name: str, at: str) -> ResolvedRoute:
        parameters = Parameters()
        try:
            return self._catalog.plan(*target(name, at, parameters), extrapolate=False).resolved
        except CorollaError as error:
            raise reworded(error, at, parameters) from error

    async def _answer(self, method: str, context: Any, function: Callable[[Any], T], request: object) -> T:
        async with call(method, context, self._metrics):
            return await self._in(self._pool, function, request)
        raise AssertionError("a failed call was not aborted")

    @staticmethod
    async def _in(pool: Executor, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *args)


# From protobuf


async def _read(messages: AsyncIterator[pb.ModelInferRequest]) -> AsyncIterator[pb.ModelInferRequest]:
    """The requests of a stream, until one that is none."""
    try:
        async for message in messages:
            yield message
    except DecodeError as error:
        raise InvalidInput(
            "a message of the stream is no ModelInferRequest",
            field="stream",
            remedy="send inference.ModelInferRequest messages",
        ) from error


def _inference(message: pb.ModelInferRequest) -> Inference:
    return Inference(
        model=message.model_name,
        version=message.model_version,
        parameters=Parameters(_values(message.parameters)),
        inputs=[
            Input(
                name=tensor.name,
                datatype=tensor.datatype,
                shape=tuple(tensor.shape),
                values={field.name: values for field, values in tensor.contents.ListFields()},
                shared=_SHARED in tensor.parameters,
            )
            for tensor in message.inputs
        ],
        raw=message.raw_input_contents,
        outputs=[_wanted(output, position) for position, output in enumerate(message.outputs)],
    )


def _wanted(output: pb.ModelInferRequest.InferRequestedOutputTensor, position: int) -> Wanted:
    given = Parameters(_values(output.parameters), within=f"outputs[{position}].")
    return Wanted(name=output.name, best=given.whole("classification", 0) or 0, shared=_SHARED in given)


def _values(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    chosen = ((name, value, value.WhichOneof("parameter_choice")) for name, value in parameters.items())
    return {name: getattr(value, kind) for name, value, kind in chosen if kind is not None}


# To protobuf


def _response(asked: pb.ModelInferRequest, answer: Inferred) -> pb.ModelInferResponse:
    tensor = pb.ModelInferResponse.InferOutputTensor
    return pb.ModelInferResponse(
        model_name=asked.model_name,
        model_version=answer.version,
        id=asked.id,
        parameters={name: pb.InferParameter(string_param=text) for name, text in answer.parameters.items()},
        outputs=[tensor(name=o.name, datatype=o.datatype, shape=o.shape) for o in answer.outputs],
        raw_output_contents=[output.raw for output in answer.outputs],
    )


def _route_listed(state: RouteState) -> pb.RepositoryIndexResponse.ModelIndex:
    return _listed(f"{state.task}/{state.name}", "", state.problem, "")


def _adapter_listed(state: AdapterState) -> pb.RepositoryIndexResponse.ModelIndex:
    name, _, version = state.name.partition(":")
    return _listed(name, version, state.problem, "" if state.resident else "its first request loads it")


def _listed(name: str, version: str, problem: str, note: str) -> pb.RepositoryIndexResponse.ModelIndex:
    return pb.RepositoryIndexResponse.ModelIndex(
        name=name,
        version=version,
        state="UNAVAILABLE" if problem else "READY",
        reason=problem or note,
    )


# Streams


def in_order(answer: Callable[[Asked], Awaitable[Answered]]) -> Callable[[Asked], Awaitable[Answered]]:
    """Makes answers finish in the order in which they were begun.

    Args:
        answer: Never raises.
    """
    last = asyncio.Event()
    last.set()

    async def in_turn(request: Asked) -> Answered:
        nonlocal last
        before, last = last, asyncio.Event()
        mine = last
        answered = await answer(request)
        await before.wait()
        mine.set()
        return answered

    return in_turn
