"""Serves inference.GRPCInferenceService: protobuf to the terms of `requests`, and back."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from importlib.metadata import version
from typing import Any

import grpc
from google.rpc import code_pb2, status_pb2

from model_store.resolution.versions import ResolvedRoute
from petl_vit.errors import CorollaError, Forbidden, InvalidInput
from protos.inference import grpc_service_pb2 as pb
from protos.inference import grpc_service_pb2_grpc
from serving.access import rights
from serving.access.caller import caller
from serving.access.principals import Scope
from serving.answer.classifier import Classifier
from serving.answer.lookups import Lookups
from serving.metrics.events import Metrics
from serving.oip.outputs import COLUMNS, RequestedOutput
from serving.oip.requests import (
    PLATFORM,
    Inference,
    InferenceAnswer,
    Parameter,
    Parameters,
    answer_of,
    protocol_field,
    request_of,
    target,
    version_of,
)
from serving.oip.tensors import INPUT, Input
from serving.registry.admin import Admin, RouteState
from serving.registry.catalog import Catalog
from serving.registry.listing import AdapterState
from serving.request import Request
from serving.rpc.authentication import Need, Open
from serving.rpc.call import deadline_of, in_pool, path, show_calls, stream, unary
from serving.rpc.no_admin import no_admin

_SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
SERVICE = _SERVICE.full_name
_NEEDS_OF: Mapping[str, Need] = {
    "ServerLive": Open.NOTHING,  # probes
    "ServerReady": Open.NOTHING,
    "RepositoryModelLoad": Scope.ADMIN,
    "RepositoryModelUnload": Scope.ADMIN,
}
NEEDS: Mapping[str, Need] = {
    path(method): _NEEDS_OF.get(method.name, Scope.INFER) for method in _SERVICE.methods
}
"""What each call needs of its caller, by its path."""
_EXTENSIONS = ("model_configuration", "parameters", "classification", "schedule_policy")
_OF_ADMIN = ("model_repository",)
_SHARED = "shared_memory_region"
_MOST_SIDES = 9
"""Of a tensor's shape as it is read; more than four refuse it already."""
_TRITON_TYPES = {"BYTES": pb.TYPE_STRING, "FP32": pb.TYPE_FP32, "INT64": pb.TYPE_INT64}


class OipServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves inference.GRPCInferenceService.

    Args:
        admin: Lists, loads and unloads adapters.
        takes_admin: Whether whoever asks may load and unload them.
        ready: Whether the server takes requests now.
        pool: Threads for what computes.
        lookups: Where the store is asked.
        admin_pool: Threads for what loads and lists, so that it delays nobody else.
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
        lookups: Lookups,
        admin_pool: Executor,
        max_images: int,
        max_stream_requests: int,
    ) -> None:
        self.metrics, self._classifier, self._catalog, self._ready = metrics, classifier, catalog, ready
        self._admin, self._takes_admin = admin, takes_admin
        self._pool, self._lookups, self._admin_pool = pool, lookups, admin_pool
        self._max_images, self._max_stream_requests = max_images, max_stream_requests
        show_calls(_SERVICE, metrics)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Makes a server answer the service's calls."""
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, server)

    # The server

    @unary
    async def ServerLive(self, request: pb.ServerLiveRequest, context: Any) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    @unary
    async def ServerReady(self, request: pb.ServerReadyRequest, context: Any) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._ready())

    @unary
    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Any
    ) -> pb.ServerMetadataResponse:
        extensions = _EXTENSIONS + (_OF_ADMIN if self._takes_admin else ())
        return pb.ServerMetadataResponse(name=PLATFORM, version=version("corolla"), extensions=extensions)

    # Models

    @unary
    async def ModelReady(self, request: pb.ModelReadyRequest, context: Any) -> pb.ModelReadyResponse:
        return await self._lookups.run(self._model_ready, request)

    @unary
    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Any) -> pb.ModelMetadataResponse:
        return await self._lookups.run(self._model_metadata, request)

    @unary
    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Any) -> pb.ModelConfigResponse:
        return await self._lookups.run(self._model_config, request)

    # Inference

    @unary
    async def ModelInfer(self, request: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        return await self._infer(request, context)

    async def ModelStreamInfer(self, _: object, context: Any) -> None:  # type: ignore[override]  # by its context
        async def answer(message: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            response = await self._infer(message, context)
            response.parameters["triton_final_response"].bool_param = True
            return pb.ModelStreamInferResponse(infer_response=response)

        await stream(
            "ModelStreamInfer",
            context,
            self.metrics,
            answer,
            _failure,
            most=self._max_stream_requests,
            ordered=True,
        )

    async def _infer(self, message: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        inference, request = await in_pool(
            self._pool, self._read, message, deadline_of(context), context.peer()
        )
        try:
            return await self._classifier.classify(
                request, lambda response: _response(message, answer_of(inference, response))
            )
        except CorollaError as error:
            raise error.about(protocol_field(error, inference.version, inference.parameters)) from error

    def _read(
        self, message: pb.ModelInferRequest, deadline: float | None, peer: str
    ) -> tuple[Inference, Request]:
        inference = _inference(message)
        return inference, request_of(inference, max_images=self._max_images, deadline=deadline, peer=peer)

    # The repository

    @unary
    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Any
    ) -> pb.RepositoryIndexResponse:
        return await in_pool(self._admin_pool, self._index, request)

    @unary
    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Any
    ) -> pb.RepositoryModelLoadResponse:
        self._check_admin()
        await in_pool(self._admin_pool, self._load, request)
        return pb.RepositoryModelLoadResponse()

    @unary
    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Any
    ) -> pb.RepositoryModelUnloadResponse:
        self._check_admin()
        await in_pool(self._admin_pool, self._unload, request)
        return pb.RepositoryModelUnloadResponse()

    def _check_admin(self) -> None:
        if not self._takes_admin:
            raise no_admin()

    # In the pool

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            self._resolved(request.name, request.version)
        except Forbidden:
            raise
        except CorollaError:
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
                tensor(
                    name=column.name,
                    datatype=column.datatype,
                    shape=[-1, *column.shape(len(resolved.classes))],
                )
                for column in COLUMNS.values()
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
                    name=column.name,
                    data_type=_TRITON_TYPES[column.datatype],
                    dims=column.shape(len(resolved.classes)),
                )
                for column in COLUMNS.values()
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
        self._admin.load_route(self._resolved(request.model_name, ""))

    def _unload(self, request: pb.RepositoryModelUnloadRequest) -> None:
        self._admin.unload_route(self._resolved(request.model_name, ""))

    def _versions(self, resolved: ResolvedRoute) -> list[str]:
        """All versions of the adapter, where the route is one."""
        if not version_of(resolved):
            return []
        (term,) = resolved.terms()
        name = term.label.partition(":")[0]
        return [str(number) for number in self._catalog.store.adapters.versions(term.task.spec.name, name)]

    def _resolved(self, name: str, version: str) -> ResolvedRoute:
        parameters = Parameters()
        try:
            return rights.plan(self._catalog, caller(), *target(name, version, parameters)).resolved
        except CorollaError as error:
            raise error.about(protocol_field(error, version, parameters)) from error


# From protobuf


def _inference(message: pb.ModelInferRequest) -> Inference:
    return Inference(
        model=message.model_name,
        version=message.model_version,
        parameters=Parameters(_values(message.parameters)),
        inputs=[
            Input(
                name=tensor.name,
                datatype=tensor.datatype,
                shape=tuple(tensor.shape[:_MOST_SIDES]),
                values={field.name: values for field, values in tensor.contents.ListFields()},
                shared=_SHARED in tensor.parameters,
            )
            for tensor in message.inputs
        ],
        raw=message.raw_input_contents,
        outputs=[_requested_output(output, position) for position, output in enumerate(message.outputs)],
    )


def _requested_output(
    output: pb.ModelInferRequest.InferRequestedOutputTensor, position: int
) -> RequestedOutput:
    parameters = Parameters(_values(output.parameters), within=f"outputs[{position}].")
    return RequestedOutput(
        name=output.name, best=parameters.whole("classification", 0) or 0, shared=_SHARED in parameters
    )


def _values(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    kinds = ((name, value, value.WhichOneof("parameter_choice")) for name, value in parameters.items())
    return {name: getattr(value, kind) for name, value, kind in kinds if kind is not None}


# To protobuf


def _response(request: pb.ModelInferRequest, answer: InferenceAnswer) -> pb.ModelInferResponse:
    tensor = pb.ModelInferResponse.InferOutputTensor
    return pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=answer.version,
        id=request.id,
        parameters={name: pb.InferParameter(string_param=text) for name, text in answer.parameters.items()},
        outputs=[
            tensor(name=output.name, datatype=output.datatype, shape=output.shape)
            for output in answer.outputs
        ],
        raw_output_contents=[output.raw for output in answer.outputs],
    )


def _failure(request: pb.ModelInferRequest, status: status_pb2.Status) -> pb.ModelStreamInferResponse:
    return pb.ModelStreamInferResponse(
        error_message=f"{code_pb2.Code.Name(status.code)}: {status.message}",
        infer_response=pb.ModelInferResponse(model_name=request.model_name, id=request.id),
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
