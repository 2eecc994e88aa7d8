from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.serving.triton_client import service_pb2_grpc
from tests.serving.triton_client import tritonclient as triton
from tests.serving.world import (
    Running,
)


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.address) as client:
        yield client


@pytest.fixture(scope="module")
def stub(running: Running) -> Iterator[Any]:
    """NVIDIA's messages without NVIDIA's client, for requests that it would not make."""
    with grpc.insecure_channel(running.address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)
