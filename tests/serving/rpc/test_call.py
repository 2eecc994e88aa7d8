"""What calls have in common, without a channel."""

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client import CollectorRegistry

from protos.corolla.v1 import admin_pb2, classifier_pb2
from protos.inference import grpc_service_pb2
from serving.metrics.events import Metrics
from serving.rpc.call import show_calls

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
