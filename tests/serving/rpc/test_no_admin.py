"""A server that takes no administration says so, and shows none."""

from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from corolla.commands.adapters import adapters
from protos.inference import grpc_service_pb2, grpc_service_pb2_grpc
from serving.client.admin import AdminClient
from serving.client.messages import RequestFailed
from serving.rpc.admin_servicer import SERVICE
from tests.serving.access.test_exposure import said
from tests.serving.world import WAIT_S, Running, World


@pytest.fixture(scope="module")
def closed(world: World) -> Iterator[Running]:
    with Running(world.settings(admin=False)) as running:
        yield running


def test_every_administration_call_is_refused_and_the_remedy_named(closed: Running) -> None:
    with closed.client() as client:
        admin = AdminClient(client)
        for call in (admin.list_adapters, admin.reload, lambda: admin.set_alias("lora", "prod", 1)):
            with pytest.raises(
                RequestFailed, match="takes no administration; start it with --admin"
            ) as caught:
                call()
            assert caught.value.code == "PERMISSION_DENIED"
    assert "takes no administration" in str(said(adapters, closed, "resident").exception)


def test_what_is_not_served_is_not_shown(closed: Running, running: Running) -> None:
    for server, shown in ((closed, False), (running, True)):
        with server.client() as client:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(client.channel)
            about = stub.ServerMetadata(grpc_service_pb2.ServerMetadataRequest(), timeout=WAIT_S)
            assert ("model_repository" in about.extensions) is shown
            assert (healthy(client.channel) is grpc.StatusCode.OK) is shown
            assert (SERVICE in reflected(client.channel)) is shown
    with closed.client() as client:
        assert healthy(client.channel) is grpc.StatusCode.NOT_FOUND
        assert client.serving()


def healthy(channel: grpc.Channel) -> grpc.StatusCode:
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    try:
        health_pb2_grpc.HealthStub(channel).Check(request, timeout=WAIT_S)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def reflected(channel: grpc.Channel) -> set[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (reply,) = stub.ServerReflectionInfo(iter([request]), timeout=WAIT_S)
    return {service.name for service in reply.list_services_response.service}
