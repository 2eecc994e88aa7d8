"""inference.GRPCInferenceService over a real channel, by NVIDIA's own client: the server and its models."""

from typing import Any

import grpc
import pytest

from serving.oip.outputs import COLUMNS
from tests.serving.oip.requests import refusal
from tests.serving.triton_client import service_pb2, service_pb2_grpc
from tests.serving.triton_client import tritonclient as triton
from tests.serving.world import (
    SHAPES,
    Running,
    World,
)

InferenceServerException = triton.InferenceServerException


def test_the_server_says_what_it_is(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    about = client.get_server_metadata()
    assert about.name == "corolla"
    assert "model_configuration" in about.extensions
    assert "statistics" not in about.extensions, "perf_analyzer would ask for them"


@pytest.mark.parametrize(
    "model", ["shapes/lora", "shapes/best", "shapes/base", "0.6*shapes/lora, shapes/ssf"]
)
def test_a_route_is_a_model_that_is_ready(client: Any, model: str) -> None:
    assert client.is_model_ready(model)
    about, config = client.get_model_metadata(model), client.get_model_config(model).config

    assert about.name == config.name == model
    assert [(i.name, i.datatype, list(i.shape)) for i in about.inputs] == [("images", "BYTES", [-1, 1])]
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [("images", 13, [1])]
    assert [o.name for o in about.outputs] == [o.name for o in config.output] == list(COLUMNS)
    assert list(about.outputs[0].shape) == [-1, len(SHAPES)]
    assert list(config.output[0].dims) == [len(SHAPES)]
    assert config.max_batch_size == 64
    assert not config.model_transaction_policy.decoupled


def test_an_adapter_has_versions_and_a_route_has_none(client: Any) -> None:
    assert list(client.get_model_metadata("shapes/lora").versions) == ["1", "2"]
    assert list(client.get_model_metadata("shapes/best").versions) == []
    assert client.is_model_ready("shapes/lora", "1")
    assert client.is_model_ready("shapes/lora", "prod")
    assert not client.is_model_ready("shapes/lora", "9")


NOT_A_ROUTE = ("Bad Name", "lora,", "", " ", "/", "\u00fc\0", "x" * 5000)
NO_MODEL = ("shapes/nothing", "nosuch/lora", "lora", "2*shapes/lora", "shapes/lora, colours/lora")


@pytest.mark.parametrize("name", NOT_A_ROUTE + NO_MODEL)
def test_any_other_name_is_not_ready_and_not_an_error(client: Any, name: str) -> None:
    assert not client.is_model_ready(name)


@pytest.mark.parametrize("version", ["9", "0", "-1", "1.0", "x" * 5000, "Prod", "no", " "])
def test_any_other_version_is_not_ready_and_not_an_error(client: Any, version: str) -> None:
    assert not client.is_model_ready("shapes/lora", version)
    assert not client.is_model_ready("shapes/best", version)


def test_a_server_that_stops_is_not_ready(world: World) -> None:
    with Running(world.settings()) as running, triton.InferenceServerClient(running.address) as client:
        assert client.is_server_ready()
        running.server._serving = False
        assert not client.is_server_ready()
        assert not client.is_model_ready("shapes/lora")
        assert client.is_server_live()


def index(client: Any) -> dict[tuple[str, str], tuple[str, str]]:
    return {(m.name, m.version): (m.state, m.reason) for m in client.get_model_repository_index().models}


def test_the_index_lists_routes_and_adapters_and_what_is_wrong_with_them(own_world: World) -> None:
    own_world.put_route("broken", "lora:1")
    own_world.adapter_file("shapes", "ssf", 1).with_name("manifest.json").write_text("{")
    (own_world.folder / "routes" / "shapes" / "broken").write_text("{")
    with Running(own_world.settings()) as running, triton.InferenceServerClient(running.address) as client:
        found = index(client)
        ready = service_pb2.RepositoryIndexRequest(ready=True)
        with grpc.insecure_channel(running.address) as channel:
            listed = service_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryIndex(ready).models

    assert found["shapes/lora", "1"] == ("READY", "its first request loads it")
    assert found["colours/base", ""][0] == "READY"
    assert found["shapes/broken", ""][0] == found["shapes/ssf", "1"][0] == "UNAVAILABLE"
    assert found["shapes/best", ""][0] == "UNAVAILABLE", "one of its members is damaged"
    assert "manifest.json" in found["shapes/ssf", "1"][1]
    assert {(m.name, m.version) for m in listed} == {
        key for key, (state, _) in found.items() if state == "READY"
    }


def test_models_are_loaded_and_unloaded(world: World) -> None:
    with Running(world.settings()) as running, triton.InferenceServerClient(running.address) as client:
        client.load_model("shapes/best")
        loaded = [key for key, (_, reason) in index(client).items() if not reason]
        assert sorted(loaded) == [
            ("shapes/best", ""), ("shapes/bitfit", "1"), ("shapes/lora", "2"), ("shapes/ssf", "1")
        ]  # fmt: skip
        client.unload_model("shapes/ssf")
        assert index(client)["shapes/ssf", "1"] == ("READY", "its first request loads it")
        with pytest.raises(InferenceServerException, match="no adapter"):
            client.load_model("shapes/nothing")
        with pytest.raises(InferenceServerException, match="models come from the store"):
            client.load_model("shapes/ssf", config="{}")


def test_where_administration_is_not_served_nothing_is_loaded_or_unloaded(world: World) -> None:
    with (
        Running(world.settings(admin=False)) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        load = service_pb2.RepositoryModelLoadRequest(model_name="shapes/lora")
        unload = service_pb2.RepositoryModelUnloadRequest(model_name="shapes/lora")
        for call in (lambda: stub.RepositoryModelLoad(load), lambda: stub.RepositoryModelUnload(unload)):
            code, _, text = refusal(call)
            assert code == "PERMISSION_DENIED"
            assert "--admin" in text
        assert running.value("corolla_registered_adapters") == 0
        assert stub.RepositoryIndex(service_pb2.RepositoryIndexRequest()).models
