"""Routes are loaded and unloaded wholly or not at all, and what is not in memory is unloaded already."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from serving.client.admin import AdminClient
from tests.serving.oip.requests import refusal
from tests.serving.triton_client import service_pb2, service_pb2_grpc
from tests.serving.world import Running, World


class Repository:
    """A server, as OIP and its administration see its memory."""

    def __init__(self, stub: Any, admin: AdminClient) -> None:
        self._stub, self.admin = stub, admin

    def load(self, name: str) -> None:
        self._stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name=name))

    def unload(self, name: str) -> None:
        self._stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name=name))

    def memory(self) -> list[str]:
        return sorted(state.name for state in self.admin.list_adapters(resident_only=True).adapters)


@pytest.fixture
def repository(own_world: World) -> Iterator[Repository]:
    own_world.put_route("three", "lora, ssf, bitfit")
    with (
        Running(own_world.settings()) as running,
        running.client() as client,
        grpc.insecure_channel(running.address) as channel,
    ):
        yield Repository(service_pb2_grpc.GRPCInferenceServiceStub(channel), AdminClient(client))


THREE = ["shapes/bitfit:1", "shapes/lora:2", "shapes/ssf:1"]


def test_a_route_is_unloaded_as_far_as_it_is_in_memory_or_not_at_all(repository: Repository) -> None:
    repository.unload("shapes/lora")
    repository.load("shapes/lora")
    repository.unload("shapes/three")
    assert repository.memory() == []

    repository.load("shapes/three")
    repository.admin.pin_adapter("shapes/bitfit")
    repository.admin.pin_adapter("shapes/ssf")
    code, _, text = refusal(lambda: repository.unload("shapes/three"))
    assert (code, repository.memory()) == ("ABORTED", THREE)
    assert "shapes/bitfit:1 and shapes/ssf:1 are pinned; unpin" in text

    for name in ("bitfit", "ssf"):
        repository.admin.unpin_adapter(name, task="shapes")
    repository.unload("shapes/three")
    assert repository.memory() == []
    assert refusal(lambda: repository.unload("shapes/nothing"))[0] == "NOT_FOUND"


def test_a_route_that_cannot_be_loaded_wholly_is_not_loaded(repository: Repository, own_world: World) -> None:
    file = own_world.adapter_file("shapes", "bitfit", 1)
    data = file.read_bytes()
    file.write_bytes(data[:-4])
    repository.load("shapes/ssf")
    assert refusal(lambda: repository.load("shapes/three"))[0] == "DATA_LOSS"
    assert repository.memory() == ["shapes/ssf:1"], "which was there before"

    file.write_bytes(data)
    repository.load("shapes/three")
    assert repository.memory() == THREE
