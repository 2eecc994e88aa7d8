"""Addresses as people write them."""

from pathlib import Path

import pytest

from petl_vit.errors import InvalidInput
from serving.address import host_of, is_local, is_loopback, joined, socket_path, target_of


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("localhost:50051", "localhost:50051"),
        (" 10.0.0.1:1 ", "10.0.0.1:1"),
        ("[::1]:50051", "[::1]:50051"),
        ("corolla.default.svc.cluster.local:443", "corolla.default.svc.cluster.local:443"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:///run/x.sock", "unix:/run/x.sock"),
        ("unix:x.sock", "unix:x.sock"),
        ("dns:///corolla:50051", "dns:///corolla:50051"),
        ("ipv4:10.0.0.1:50051,10.0.0.2:50051", "ipv4:10.0.0.1:50051,10.0.0.2:50051"),
    ],
)
def test_a_client_takes_a_host_and_a_port_a_socket_or_a_target_of_grpc(text: str, target: str) -> None:
    assert target_of(text) == target


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://127.0.0.1:50051", "HOST:PORT; write 127.0.0.1:50051"),
        ("https://here:50051/v2", "write here:50051, and --tls-ca for TLS"),
        ("grpc://here", "is a URL, and a server is named by HOST:PORT"),
        ("tcp://10.43.1.39:50051", "write 10.43.1.39:50051"),
        ("127.0.0.1", "is not HOST:PORT; write it with the port, as in 127.0.0.1:50051"),
        ("localhost", "as in localhost:50051"),
        ("::1", r"as in \[::1\]:50051"),
        ("::1:50051", r"as in 127.0.0.1:50051 or \[::1\]:50051"),
        ("[::1]", r"as in \[::1\]:50051"),
        ("here:", "is not HOST:PORT"),
        ("here:http", "is not HOST:PORT"),
        ("here:0", "the port from 1 to 65535"),
        ("here:70000", "the port from 1 to 65535"),
        (":50051", "is not HOST:PORT"),
        ("", "is not HOST:PORT"),
        ("/run/corolla.sock", "write unix:/run/corolla.sock"),
        ("unix:", "has no path"),
        ("unix:/" + 107 * "x", "at most 107"),
    ],
)
def test_what_is_not_an_address_is_refused_and_the_right_form_named(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        target_of(text, field="server")
    assert caught.value.field == "server"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.2", "::1", "localhost", "::ffff:127.0.0.1", "unix:/x"]
)
def test_what_stays_on_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "128.0.0.1", "localhost.example.com", "box"])
def test_what_does_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("target", "here"),
    [
        ("127.0.0.1:50051", True),
        ("127.9.9.9:50051", True),
        ("[::1]:50051", True),
        ("localhost:50051", True),
        ("LOCALHOST:50051", True),
        ("api.localhost:50051", True),
        ("0.0.0.0:50051", True),
        ("[::]:50051", True),
        ("dns:///localhost:50051", True),
        ("ipv4:127.0.0.1:50051", True),
        ("unix:/run/x.sock", True),
        ("corolla:50051", False),
        ("10.0.0.1:50051", False),
        ("[2001:db8::1]:50051", False),
    ],
)
def test_a_client_knows_which_targets_are_this_machine(target: str, here: bool) -> None:
    assert is_local(target) is here


def test_ipv6_addresses_lose_and_get_their_brackets() -> None:
    assert host_of("[::1]") == host_of(" ::1 ") == "::1"
    assert (joined("::1", 5), joined("here", 5)) == ("[::1]:5", "here:5")


def test_a_socket_has_a_path() -> None:
    assert socket_path("unix:///run/x.sock") == Path("/run/x.sock")
    assert socket_path("127.0.0.1") is None
