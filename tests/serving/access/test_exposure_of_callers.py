"""Before a start: the files of who may call are read, and it is said where tokens could be overheard."""

import http.client
import logging
import ssl
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from petl_vit.errors import InvalidInput
from serving.access import exposure
from serving.settings import Settings
from tests.serving.access.callers import Callers
from tests.serving.certificates import Certificates
from tests.serving.world import WAIT_S, Running, World


@pytest.fixture
def principals(tmp_path: Path) -> str:
    callers = Callers(tmp_path / "principals.json")
    callers.add("team")
    return str(callers.write())


def free(**settings: object) -> Settings:
    return Settings.model_validate({"port": 0, "metrics_port": 0} | settings)


@pytest.mark.parametrize("field", ["principals", "metrics_token_file"])
def test_a_file_that_cannot_be_used_stops_the_start(tmp_path: Path, field: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be read") as caught:
        exposure.check(free(**{field: str(tmp_path / "missing")}))
    assert caught.value.field == field


def test_tokens_in_plain_text_are_warned_about(principals: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    exposure.check(free(principals=principals))
    assert caplog.text == ""
    exposure.check(free(principals=principals, host="0.0.0.0", insecure=True))
    assert "tokens of --principals travel over the network in plain text" in caplog.text


def test_tokens_of_metrics_in_plain_text_are_warned_about(
    tmp_path: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "token").write_text("m" * 32)
    pair = {"tls_certificate": certificates.path("server.pem"), "tls_key": certificates.path("server.key")}
    chosen = {"host": "0.0.0.0", "metrics_token_file": str(tmp_path / "token")} | pair
    for silent in ({"metrics_tls": True}, {"metrics_host": "127.0.0.1"}, {"metrics_port": -1}):
        exposure.check(free(**chosen | silent))
    assert caplog.text == ""
    exposure.check(free(**chosen))
    assert "tokens of --metrics-token-file travel in plain text; --metrics-tls" in caplog.text


def test_metrics_over_tls_need_a_certificate() -> None:
    with pytest.raises(InvalidInput, match="set --tls-certificate and --tls-key") as caught:
        exposure.check(free(metrics_tls=True))
    assert caught.value.field == "metrics_tls"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"metrics_host": "0.0.0.0"}, True),
        ({"metrics_host": "127.0.0.2"}, False),
        ({"metrics_host": "0.0.0.0", "insecure": True}, False),
        ({"metrics_host": "0.0.0.0", "metrics_port": -1}, False),
    ],
)
def test_metrics_that_anyone_may_read_are_told(
    given: dict[str, object], told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    exposure.check(free(**given))
    assert ("to whoever reaches" in caplog.text) is told


def test_principals_do_not_stand_in_for_tls(principals: str) -> None:
    with pytest.raises(InvalidInput, match="without TLS"):
        exposure.check(free(principals=principals, host="0.0.0.0"))


def test_administration_is_served_where_principals_say_who_calls() -> None:
    assert Settings(host="0.0.0.0", principals="p").takes_admin
    assert not Settings(host="0.0.0.0", principals="p", admin=False).takes_admin
    assert not Settings(host="0.0.0.0").takes_admin


def test_a_host_of_metrics_that_is_mistyped_is_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        exposure.check(free(metrics_host="no.such.host.invalid"))
    assert caught.value.field == "metrics_host"


def test_metrics_and_reflection_can_be_left_out(world: World) -> None:
    with Running(world.settings(metrics_port=-1, reflection=False)) as running, running.client() as client:
        assert running.server.metrics_port == -1
        stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ServerReflectionInfo(iter([request]), timeout=WAIT_S))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_metrics_ask_for_a_token_and_have_an_address_of_their_own(world: World, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("m" * 32)
    settings = world.settings(metrics_token_file=str(file), metrics_host="127.0.0.2")
    with Running(settings) as running:
        statuses = []
        for headers in ({}, {"Authorization": f"Bearer {'m' * 32}"}):
            connection = http.client.HTTPConnection("127.0.0.2", running.server.metrics_port, timeout=WAIT_S)
            connection.request("GET", "/metrics", headers=headers)
            statuses.append(connection.getresponse().status)
            connection.close()
    assert statuses == [401, 200]


def test_metrics_pages_and_probes_are_served_by_the_certificate_of_the_server(
    world: World, certificates: Certificates
) -> None:
    pair = {"tls_certificate": certificates.path("server.pem"), "tls_key": certificates.path("server.key")}
    context = ssl.create_default_context(cafile=certificates.path("ca.pem"))
    with Running(world.settings(metrics_tls=True, **pair)) as running:
        port = running.server.metrics_port
        assert running.server.metrics_url == f"https://127.0.0.1:{port}"
        for path in ("/metrics", "/", "/status.json", "/healthz", "/readyz"):
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=WAIT_S, context=context)
            connection.request("GET", path)
            assert connection.getresponse().status == 200, path
            connection.close()
