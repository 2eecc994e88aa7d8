"""What a client says when nobody answers."""

import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import grpc
import pytest

from serving.client.blocking import Client
from serving.client.certificate import names_in
from serving.client.credentials import credentials
from serving.client.messages import RequestFailed
from tests.serving.access.listening import Listening
from tests.serving.certificates import Certificates
from tests.serving.world import WAIT_S, Running

ALONE = [("grpc.use_local_subchannel_pool", 1)]


def refusal(address: str, chosen: grpc.ChannelCredentials | None = None) -> str:
    with (
        Client(address, credentials=chosen, options=ALONE, timeout_s=WAIT_S) as client,
        pytest.raises(RequestFailed) as caught,
    ):
        client.classify([b""], route="lora")
    assert caught.value.code == "UNAVAILABLE"
    return str(caught.value)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "unix:/no/such.sock"])
def test_nobody_there(address: str) -> None:
    assert refusal(address) == (
        f"no connection to {address}: nothing listens there; is `corolla serve` running?"
    )


def test_a_name_that_nobody_knows() -> None:
    assert "no connection to nobody.invalid:1: its name is not known" in refusal("nobody.invalid:1")


@pytest.fixture
def secure(certificates: Certificates) -> Iterator[Listening]:
    certificates.issue("elsewhere", "corolla.internal")
    with Listening(
        tls_certificate=certificates.path("elsewhere.pem"), tls_key=certificates.path("elsewhere.key")
    ) as server:
        yield server


def test_tls_where_the_other_side_has_none_and_the_other_way_round(
    secure: Listening, certificates: Certificates
) -> None:
    trusted = credentials(ca=Path(certificates.path("ca.pem")))
    assert "if it speaks TLS, add --tls-ca" in refusal(secure.address)
    with Listening() as plain:
        assert "it speaks plain text; connect without TLS" in refusal(plain.address, trusted)


def test_a_certificate_for_somebody_else_is_named_with_both_names(
    secure: Listening, certificates: Certificates
) -> None:
    trusted = credentials(ca=Path(certificates.path("ca.pem")))
    assert (
        "its certificate is for corolla.internal, not for 127.0.0.1; add --tls-server-name corolla.internal"
        in refusal(secure.address, trusted)
    )


def test_a_certificate_that_nobody_vouches_for(secure: Listening) -> None:
    said = refusal(secure.address, grpc.ssl_channel_credentials())

    assert "its certificate cannot be checked (" in said
    assert "by --tls-ca" in said


def test_a_server_that_asks_for_certificates(certificates: Certificates) -> None:
    chosen = {
        name: certificates.path(f"server.{end}") for name, end in (("certificate", "pem"), ("key", "key"))
    }
    settings = {f"tls_{name}": path for name, path in chosen.items()}
    with Listening(**settings, tls_client_ca=certificates.path("ca.pem")) as server:
        said = refusal(server.address, credentials(ca=Path(certificates.path("ca.pem"))))
    assert "if it asks for certificates, add --tls-certificate" in said


def test_the_metrics_port_is_no_grpc_port() -> None:
    class Page(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    with socketserver.TCPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        said = refusal(f"127.0.0.1:{server.server_address[1]}")
        server.shutdown()
        thread.join(WAIT_S)
    assert "does not speak gRPC; give the server's --port" in said


def test_a_server_that_is_not_ours_does_not_know_the_call() -> None:
    with (
        Listening() as server,
        Client(server.address, timeout_s=WAIT_S) as client,
        pytest.raises(RequestFailed, match="is it a corolla server, of this version") as caught,
    ):
        client.classify([b""], route="lora")
    assert caught.value.code == "UNIMPLEMENTED"


class Silent(socketserver.BaseRequestHandler):
    """Takes a connection and a request, then hangs up, as a server that is killed."""

    def handle(self) -> None:
        self.request.sendall(bytes.fromhex("000000040000000000"))  # HTTP/2's settings, empty
        received = b""
        while b"Classify" not in received and (more := self.request.recv(65536)):
            received += more


def test_a_connection_that_ends_before_the_answer() -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        said = refusal(f"127.0.0.1:{server.server_address[1]}")
        server.shutdown()
        thread.join(WAIT_S)
    assert re.search(r"the connection to 127\.0\.0\.1:\d+ ended before the answer \(.*\); ask again", said)


def test_no_answer_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            Client(address) as client,
            pytest.raises(RequestFailed, match="did not answer in time") as caught,
        ):
            client.classify([b""], route="lora", timeout_s=0.1)
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_what_the_server_says_stays_as_it_is(running: Running) -> None:
    with running.client() as client, pytest.raises(RequestFailed, match=r"^adapter: no adapter") as caught:
        client.classify([b""], route="nothing", task="shapes")
    assert caught.value.code == "NOT_FOUND"


def test_the_names_of_a_certificate_are_read(certificates: Certificates) -> None:
    import ssl

    certificates.issue("many", *(f"host{i}.example" for i in range(40)))
    der = ssl.PEM_cert_to_DER_cert(certificates.read("many.pem").decode())

    assert names_in(der) == [f"host{i}.example" for i in range(40)]
    assert names_in(ssl.PEM_cert_to_DER_cert(certificates.read("server.pem").decode())) == ["127.0.0.1"]
    for cut in range(0, len(der), 7):
        names_in(der[:cut])
