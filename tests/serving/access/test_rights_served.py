"""Tasks, routes and limits of principals, asked over TLS."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from protos.corolla.v1 import classifier_pb2
from protos.inference import grpc_service_pb2, grpc_service_pb2_grpc
from serving.client.admin import AdminClient
from serving.client.blocking import Client
from serving.client.messages import RequestFailed
from tests.serving.access.callers import ALL, Callers
from tests.serving.certificates import Certificates
from tests.serving.world import WAIT_S, Running, World, encoded

DENIED = "PERMISSION_DENIED"


class Site:
    """A running server with principals."""

    def __init__(self, running: Running, callers: Callers, certificates: Certificates) -> None:
        self.running, self.callers, self.certificates = running, callers, certificates

    def client(self, name: str) -> Client:
        return self.callers.client(self.running, name, self.certificates)


@pytest.fixture(scope="module")
def site(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("rights")
    certificates = Certificates(folder)
    certificates.issue("server")
    callers = Callers(folder / "principals.json")
    callers.add("all", *ALL)
    callers.add("colours", *ALL, tasks=("colours",))
    callers.add("best", "infer", "admin", routes=("shapes/best",))
    callers.add("nothing", "infer", tasks=("elsewhere",))
    callers.add("globs", "infer", tasks=("s*",), routes=("lo*",))
    callers.add("seldom", "infer", requests_per_s=0.01)
    callers.add("few", "infer", rows_per_s=0.02)
    callers.add("flow", "infer", requests_per_s=0.02)
    settings = world.settings(
        tls_certificate=certificates.path("server.pem"),
        tls_key=certificates.path("server.key"),
        principals=str(callers.write()),
    )
    with Running(settings) as running:
        yield Site(running, callers, certificates)


def ask(client: Client, route: str, task: str = "", **more: Any) -> Any:
    return client.classify([encoded(0)], route=route, task=task, **more)


@contextmanager
def refused(code: str = DENIED) -> Iterator[list[str]]:
    """The texts of the error of a call that must fail so."""
    said: list[str] = []
    with pytest.raises(RequestFailed) as caught:
        yield said
    said.append(str(caught.value))
    assert caught.value.code == code, said


@pytest.mark.parametrize(
    ("route", "task"),
    [
        ("lora", "shapes"),
        ("shapes/lora", ""),
        ("lora, shapes/lora", "colours"),
        ("best", "shapes"),
        ("x", "x"),
    ],
)
def test_a_task_that_is_not_a_principals_is_refused_whether_it_is_there_or_not(
    site: Site, route: str, task: str
) -> None:
    with site.client("colours") as client:
        with refused() as said:
            ask(client, route, task)
        with refused():
            client.embed([encoded(0)], route=route, task=task)
    assert "colours may not use task" in said[0]


def test_the_only_task_of_a_principal_need_not_be_named(site: Site) -> None:
    with site.client("colours") as client:
        assert ask(client, "lora").task == "colours"
    with site.client("best") as client:  # which may use a route of one task alone
        assert ask(client, "best").task == "shapes"
    with site.client("all") as client, refused("INVALID_ARGUMENT") as said:
        ask(client, "lora")
    assert "colours, reordered, shapes" in said[0]
    with site.client("nothing") as client, refused("INVALID_ARGUMENT") as said:
        ask(client, "lora")
    assert "shapes" not in said[0]


def test_a_named_route_can_be_used_without_its_members(site: Site) -> None:
    with site.client("best") as client:
        assert len(ask(client, "best", "shapes").adapters) == 3
        for route in ("lora", "ssf", "base", "best, lora", "lroa"):
            with refused():
                ask(client, route, "shapes")
        with refused():
            ask(client, "best", "reordered")


def test_no_error_proposes_a_name_that_is_not_a_principals(site: Site) -> None:
    with site.client("colours") as client, refused("NOT_FOUND") as said:
        ask(client, "lorra", "colours")
    assert "did you mean" not in said[0]
    with site.client("all") as client, refused("NOT_FOUND") as said:
        ask(client, "lorra", "colours")
    assert "did you mean lora" in said[0]
    with site.client("globs") as client, refused("NOT_FOUND") as said:
        ask(client, "lorra", "shapes")
    assert "did you mean" not in said[0]
    with site.client("globs") as client, refused("NOT_FOUND") as said:
        ask(client, "lora", "shapez")
    assert "did you mean" not in said[0]


def test_what_is_said_of_routes_names_none_that_is_not_a_principals(own_world: World, tmp_path: Path) -> None:
    own_world.put_route("hidden", "lora@prod")
    own_world.put_route("mine", "lora@prod")
    own_world.put_route("astray", "lorra")
    own_world.put_route("elsewhere", "lora, reordered/nobody")
    callers = Callers(tmp_path / "principals.json")
    callers.add("all", *ALL)
    callers.add("some", *ALL, routes=("shapes/lora", "shapes/mine", "shapes/astray"))
    callers.add("shapes", "infer", tasks=("shapes",))
    with Running(own_world.settings(principals=str(callers.write()))) as running:
        for name, notes, proposes in (("some", 1, False), ("all", 2, True)):
            with running.client(token=callers.tokens[name]) as client:
                admin = AdminClient(client)
                routes = {state.route.name: state for state in admin.list_routes().routes}
                assert "no adapter 'lorra'" in routes["astray"].problem
                assert ("did you mean" in routes["astray"].problem) is proposes
                assert ("did you mean" in reasons(client)["shapes/astray"]) is proposes
                assert len(admin.set_alias("shapes/lora", "prod", 2).notes) == notes
                admin.set_alias("shapes/lora", "prod", 1)
        with running.client(token=callers.tokens["shapes"]) as client, refused("NOT_FOUND") as said:
            ask(client, "elsewhere", "shapes")
        assert "lora" not in said[0]


def reasons(client: Client) -> dict[str, str]:
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(client.channel)
    index = client.call(stub.RepositoryIndex, grpc_service_pb2.RepositoryIndexRequest(), timeout_s=WAIT_S)
    return {model.name: model.reason for model in index.models}


def test_listings_have_what_a_principal_may_use(site: Site) -> None:
    def listed(name: str) -> dict[str, set[str]]:
        with site.client(name) as client:
            admin = AdminClient(client)
            return {
                "adapters": {adapter.name for adapter in admin.list_adapters().adapters},
                "routes": {f"{r.route.task}/{r.route.name}" for r in admin.list_routes().routes},
                "aliases": {alias.adapter for alias in admin.list_aliases().aliases},
                "models": models(client),
            }

    everything, colours, best = listed("all"), listed("colours"), listed("best")
    assert {"shapes/lora:1", "colours/lora:1", "colours/base"} <= everything["adapters"]
    assert everything["routes"] == {"shapes/best"}
    assert {"shapes/lora", "colours/lora"} <= everything["aliases"]
    assert colours == {
        "adapters": {"colours/lora:1", "colours/base"},
        "routes": set(),
        "aliases": {"colours/lora"},
        "models": {"colours/lora", "colours/base"},
    }
    assert best == {"adapters": set(), "routes": {"shapes/best"}, "aliases": set(), "models": {"shapes/best"}}


def models(client: Client) -> set[str]:
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(client.channel)
    index = stub.RepositoryIndex(grpc_service_pb2.RepositoryIndexRequest(), timeout=WAIT_S)
    return {model.name for model in index.models}


def test_other_protocols_refuse_what_a_principal_may_not_use(site: Site) -> None:
    with site.client("colours") as client:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(client.channel)
        for call, kind in (
            (stub.ModelReady, grpc_service_pb2.ModelReadyRequest),
            (stub.ModelMetadata, grpc_service_pb2.ModelMetadataRequest),
            (stub.ModelConfig, grpc_service_pb2.ModelConfigRequest),
        ):
            call(kind(name="colours/lora"), timeout=WAIT_S)
            with pytest.raises(grpc.RpcError) as caught:
                call(kind(name="shapes/lora"), timeout=WAIT_S)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert "model_name" in caught.value.details() or "task" in caught.value.details()
        with pytest.raises(grpc.RpcError) as caught:
            stub.RepositoryModelLoad(
                grpc_service_pb2.RepositoryModelLoadRequest(model_name="shapes/lora"), timeout=WAIT_S
            )
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_administration_changes_nothing_that_is_not_a_principals(site: Site) -> None:
    with site.client("colours") as client:
        admin = AdminClient(client)
        admin.load_adapter("lora", task="colours")
        for call in (
            lambda: admin.load_adapter("lora", task="shapes"),
            lambda: admin.unload_adapter("shapes/lora:1"),
            lambda: admin.pin_adapter("lora", task="shapes"),
            lambda: admin.unpin_adapter("lora", task="shapes"),
            lambda: admin.set_alias("shapes/lora", "prod", 2),
            lambda: admin.put_route("mine", "lora", task="shapes"),
            lambda: admin.put_route("mine", "lora, shapes/lora", task="colours"),
            lambda: admin.delete_route("best", task="shapes"),
            lambda: admin.list_changes("shapes/best"),
            lambda: admin.list_adapters(task="shapes"),
            lambda: admin.list_aliases(task="shapes"),
            lambda: admin.add_domain("new"),
        ):
            with refused():
                call()


def test_labels_of_others_predictions_are_refused(site: Site) -> None:
    with site.client("all") as client:
        prediction = ask(client, "lora", "shapes").results[0].prediction_id
        other = ask(client, "lora", "colours").results[0].prediction_id
    with site.client("colours") as client:
        with refused():
            client.feedback([(prediction, "circle")])
        assert client.feedback([(other, "red")]).results[0].status == classifier_pb2.FEEDBACK_STATUS_MATCHED


def test_requests_beyond_a_limit_are_refused_with_the_time_to_wait(site: Site) -> None:
    with site.client("seldom") as client:
        ask(client, "lora", "shapes")
        with pytest.raises(RequestFailed) as caught:
            ask(client, "lora", "shapes")
    assert caught.value.code == "RESOURCE_EXHAUSTED"
    assert "seldom may send 0.01 requests in a second" in str(caught.value)
    cause = caught.value.__cause__
    status = rpc_status.from_call(cause)
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert 0 < retry.retry_delay.ToSeconds() <= 100


def test_rows_beyond_a_limit_are_refused_before_an_image_is_read(site: Site) -> None:
    broken = b"not an image"
    with site.client("few") as client:
        with refused("RESOURCE_EXHAUSTED") as said:
            client.classify([broken], route="lora, ssf", task="shapes")
        assert "2 rows at once" in said[0]
        ask(client, "lora", "shapes")
        with refused("RESOURCE_EXHAUSTED"):
            ask(client, "lora", "shapes")


def test_the_requests_of_a_stream_are_counted_one_by_one(site: Site) -> None:
    request = classifier_pb2.ClassifyRequest(
        task="shapes", route="lora", images=[classifier_pb2.Image(data=encoded(0))]
    )
    with site.client("flow") as client:
        stream = client.channel.stream_stream(
            "/corolla.v1.Classifier/ClassifyStream",
            classifier_pb2.StreamRequest.SerializeToString,
            classifier_pb2.StreamResponse.FromString,
        )
        requests = [classifier_pb2.StreamRequest(id=str(n), request=request) for n in range(3)]
        answers = list(stream(iter(requests), timeout=WAIT_S))
    codes = [answer.error.code for answer in answers if answer.WhichOneof("outcome") == "error"]
    assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]] * 2
