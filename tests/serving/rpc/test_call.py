"""What calls have in common, without a channel."""

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client import CollectorRegistry

from protos.corolla.v1 import admin_pb2, classifier_pb2
from protos.inference import grpc_service_pb2
from serving.metrics.events import Metrics
from serving.rpc.call import caller_of, show_calls

SERVICES = (
    classifier_pb2.DESCRIPTOR.services_by_name["Classifier"],
    admin_pb2.DESCRIPTOR.services_by_name["Admin"],
    grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_every_call_of_a_service_shows_at_zero_with_every_code(service: ServiceDescriptor) -> None:
    metrics = Metrics(CollectorRegistry())
    show_calls(service, metrics)

    for method in service.methods:
        for code in ("OK", "CANCELLED", "INTERNAL", "NOT_FOUND", "PERMISSION_DENIED", "UNAVAILABLE"):
            labels = {"method": method.name, "code": code}
            assert metrics.registry.get_sample_value("corolla_requests_total", labels) == 0
        labels = {"method": method.name}
        assert metrics.registry.get_sample_value("corolla_request_duration_seconds_count", labels) == 0


class Context:
    """What gRPC says of a caller."""

    def __init__(self, peer: str, name: bytes | None = None, others: list[bytes] | None = None) -> None:
        self.peer, self.peer_identities = lambda: peer, lambda: others
        self.auth_context = lambda: {} if name is None else {"x509_common_name": [name]}


def test_a_caller_is_told_by_its_certificate_and_its_address() -> None:
    assert caller_of(Context("ipv6:%5B::1%5D:50123")) == "ipv6:[::1]:50123"
    assert caller_of(Context("ipv4:10.0.0.7:50123", b"ann", [b"10.0.0.7"])) == "ann ipv4:10.0.0.7:50123"
    nameless = Context("ipv4:10.0.0.7:50123", others=[b"ops.example", b"ops.example"])
    assert caller_of(nameless) == "ops.example ipv4:10.0.0.7:50123"
