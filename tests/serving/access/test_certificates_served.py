"""A server whose clients show certificates, which are principals, too."""

import shutil
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from protos.corolla.v1 import classifier_pb2
from serving.client.admin import AdminClient
from serving.client.blocking import Client
from serving.client.messages import RequestFailed, request_of
from tests.serving.access.callers import Callers
from tests.serving.certificates import Certificates
from tests.serving.rpc.requests import ask
from tests.serving.world import WAIT_S, Running, World, encoded


class Site:
    """A running server, its principals, and the certificates of all."""

    def __init__(self, running: Running, callers: Callers, certificates: Certificates) -> None:
        self.running, self.callers, self.certificates = running, callers, certificates

    def client(self, certificate: str, token: str | None = None) -> Client:
        read = self.certificates.read
        shown = grpc.ssl_channel_credentials(
            read("ca.pem"), read(f"{certificate}.key"), read(f"{certificate}.pem")
        )
        if token is not None:
            bearer = grpc.access_token_call_credentials(self.callers.tokens[token])
            shown = grpc.composite_channel_credentials(shown, bearer)
        options = [("grpc.use_local_subchannel_pool", 1)]
        return Client(self.running.address, credentials=shown, options=options, timeout_s=WAIT_S)


@pytest.fixture(scope="module")
def site(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("certificates")
    certificates = Certificates(folder)
    for name in ("server", "team", "stranger"):
        certificates.issue(name)
    certificates.issue("named", "team.example", "other.example")
    callers = Callers(folder / "principals.json")
    callers.add("team", "infer", certificates=("team",), tasks=("shapes",))
    callers.add("by-dns", "infer", "admin", certificates=("other.example",))
    callers.add("token", "admin")
    shutil.copytree(world.folder, folder / "store")  # its history is changed
    settings = World(folder / "store").settings(
        tls_certificate=certificates.path("server.pem"),
        tls_key=certificates.path("server.key"),
        tls_client_ca=certificates.path("ca.pem"),
        principals=str(callers.write()),
    )
    with Running(settings) as running:
        yield Site(running, callers, certificates)


def code(call: Any) -> str:
    with pytest.raises(RequestFailed) as caught:
        call()
    return str(caught.value.code)


def test_a_certificate_is_the_principal_that_its_common_name_is(site: Site) -> None:
    with site.client("team") as client:
        assert ask(client, "lora").task == "shapes"
        assert code(lambda: ask(client, "lora", task="colours")) == "PERMISSION_DENIED"
        assert code(lambda: AdminClient(client).reload()) == "PERMISSION_DENIED"
        ((_, answer),) = client.stream([("1", request_of([encoded(0)], route="lora", task="shapes"))])
        assert isinstance(answer, classifier_pb2.ClassifyResponse)
    assert site.running.value("corolla_principal_rows_total", principal="team") == 2


def test_a_certificate_is_the_principal_that_an_alternative_name_is(site: Site) -> None:
    with site.client("named") as client:
        assert ask(client, "lora").task == "shapes"
        assert AdminClient(client).reload() is not None


def test_a_certificate_of_no_principal_is_unauthenticated_and_says_its_names(site: Site) -> None:
    with site.client("stranger") as client:
        with pytest.raises(RequestFailed, match=r"stranger, 127\.0\.0\.1") as caught:
            ask(client, "lora")
        assert caught.value.code == "UNAUTHENTICATED"
        assert caught.value.request_id, "by which the log names the call"
        assert client.serving()
    assert site.running.value("corolla_refused_calls_total", reason="unknown_certificate") == 1


def test_a_token_is_who_calls_whatever_the_certificate_says(site: Site) -> None:
    with site.client("team", "token") as client:
        assert code(lambda: ask(client, "lora")) == "PERMISSION_DENIED"
        admin = AdminClient(client)
        admin.put_route("by-token", "lora", task="shapes")
        (change,) = admin.list_changes("by-token", task="shapes").changes
        admin.delete_route("by-token", task="shapes")
    assert change.by.startswith("token team ")
