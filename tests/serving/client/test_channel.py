"""How clients connect: round proxies on this machine, soon after an outage, by a certificate's name."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from petl_vit.errors import InvalidInput
from serving.client.admin import AdminClient
from serving.client.asynchronous import AsyncClient
from serving.client.blocking import Client
from serving.client.channel import Endpoint
from serving.client.credentials import credentials
from serving.client.health import main as health
from serving.client.messages import RequestFailed
from serving.settings import Settings
from tests.serving.access.listening import Listening
from tests.serving.certificates import Certificates
from tests.serving.world import WAIT_S, Running, until

NOWHERE = "http://127.0.0.1:9"
PROXIES = ["http_proxy", "https_proxy", "grpc_proxy"]
ALONE = [("grpc.use_local_subchannel_pool", 1)]


def endpoint(address: str, **changes: Any) -> dict[str, Any]:
    options = changes.pop("options", ())
    return dict(Endpoint.of(address, None, changes.pop("server_name", None), options).arguments)


# Proxies


@pytest.mark.parametrize("name", PROXIES)
async def test_no_client_asks_a_proxy_for_a_server_of_this_machine(
    running: Running, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, NOWHERE)
    port = running.server.port
    for host in ("127.0.0.1", "localhost"):
        with Client(f"{host}:{port}", options=ALONE, timeout_s=WAIT_S) as client:
            assert client.serving()
            assert AdminClient(client).list_routes().routes
        async with AsyncClient(f"{host}:{port}", options=ALONE, timeout_s=WAIT_S) as asynchronous:
            assert await asynchronous.serving()
    assert health([running.address]) == 0


def test_other_servers_are_reached_as_the_environment_says_and_a_failure_names_the_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", NOWHERE)
    with (
        Client("192.0.2.1:50051", options=ALONE, timeout_s=WAIT_S) as client,
        pytest.raises(RequestFailed, match=r"the proxy of http_proxy .* no_proxy=192\.0\.2\.1"),
    ):
        client.classify([b""], route="lora")


def test_options_of_the_caller_go_before_ours() -> None:
    assert endpoint("127.0.0.1:1")["grpc.enable_http_proxy"] == 0
    assert "grpc.enable_http_proxy" not in endpoint("10.0.0.1:1")
    chosen = endpoint(
        "127.0.0.1:1", options=[("grpc.enable_http_proxy", 1), ("grpc.keepalive_time_ms", 10_000)]
    )
    assert (chosen["grpc.enable_http_proxy"], chosen["grpc.keepalive_time_ms"]) == (1, 10_000)


# Outages


def test_a_client_tries_again_every_two_seconds_at_least() -> None:
    chosen = endpoint("corolla:50051")

    assert chosen["grpc.max_reconnect_backoff_ms"] <= 2000
    assert chosen["grpc.initial_reconnect_backoff_ms"] <= 1000
    assert chosen["grpc.dns_min_time_between_resolutions_ms"] <= 2000


def test_a_server_whose_machine_is_gone_is_given_up() -> None:
    chosen = endpoint("corolla:50051")

    assert chosen["grpc.keepalive_time_ms"] + chosen["grpc.keepalive_timeout_ms"] <= 60_000
    assert chosen["grpc.keepalive_time_ms"] > 1000 * Settings().min_ping_interval_s
    assert chosen["grpc.http2.max_pings_without_data"] == 0


@pytest.mark.parametrize(("of", "where"), [(Client, grpc), (AsyncClient, grpc.aio)])
def test_both_clients_connect_by_these_options(of: Any, where: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(where, "insecure_channel", lambda target, options: made.extend([target, options]))
    with pytest.raises(AttributeError):  # None is not a channel
        of("unix:///run/corolla.sock")

    assert made[0] == "unix:/run/corolla.sock"
    assert made[1] == Endpoint(target=made[0]).arguments


def test_a_client_is_back_after_an_outage_by_itself() -> None:
    with Listening() as server:
        port = int(server.address.rpartition(":")[2])
        client = Client(server.address, options=ALONE, timeout_s=WAIT_S)
        assert client.serving()
    assert not client.serving()
    with client, Listening(port=port):
        until(client.serving)


# Names of certificates


@pytest.fixture
def elsewhere(certificates: Certificates) -> dict[str, str]:
    """Settings of a server whose certificate is for another name than its address."""
    certificates.issue("elsewhere", "corolla.internal", "*.corolla.example")
    return {
        "tls_certificate": certificates.path("elsewhere.pem"),
        "tls_key": certificates.path("elsewhere.key"),
    }


async def test_a_certificate_for_another_name_is_taken_when_the_name_is_given(
    elsewhere: dict[str, str], certificates: Certificates
) -> None:
    trusted = credentials(ca=Path(certificates.path("ca.pem")))
    with Listening(**elsewhere) as server:
        for name in ("corolla.internal", "a.corolla.example"):
            with Client(server.address, credentials=trusted, server_name=name, timeout_s=WAIT_S) as client:
                assert client.serving()
            async with AsyncClient(
                server.address, credentials=trusted, server_name=name, timeout_s=WAIT_S
            ) as asynchronous:
                assert await asynchronous.serving()


def test_a_server_name_alone_speaks_tls() -> None:
    assert Endpoint.of("here:1", None, "corolla.internal", ()).credentials is not None
    assert Endpoint.of("here:1", None, None, ()).credentials is None


@pytest.mark.parametrize("of", [Client, AsyncClient])
async def test_an_address_that_is_none_is_refused_at_once(of: Any) -> None:
    with pytest.raises(InvalidInput, match=r"write 127\.0\.0\.1:50051") as caught:
        of("http://127.0.0.1:50051")
    assert caught.value.field == "address"
