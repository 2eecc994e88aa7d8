"""`python -m serving.client.health [HOST:PORT]`: 0 when a server serves, for container health checks.

Without an address it asks the server of its own container, which COROLLA_HOST and COROLLA_PORT name. TLS is
spoken where a flag says so, and to a server of this machine that speaks it: whoever listens here is who is
asked about, so its certificate is taken as it is. A server that asks for a certificate is shown that of the
flags, else its own, which COROLLA_TLS_CERTIFICATE and COROLLA_TLS_KEY name.
"""

import argparse
import os
import ssl
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from petl_vit.errors import InvalidInput
from serving import pem
from serving.address import UNIX, host_of, is_local, joined, target_of
from serving.client.blocking import Client
from serving.client.certificate import names_in, shown_at
from serving.client.credentials import credentials
from serving.client.messages import DEFAULT_ADDRESS, RequestFailed
from serving.environment import is_link_address

_TIMEOUT_S = 3.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is to be asked, and how; None where the command line does not say."""

    address: str | None
    tls_ca: Path | None
    tls_certificate: Path | None
    tls_key: Path | None
    tls_server_name: str | None
    timeout: float


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 serving, 1 not, 2 a mistake."""
    try:
        asked = _Asked(**vars(_parser().parse_args(arguments)))
    except SystemExit as finished:
        return int(finished.code or 0)
    try:
        with _client(asked, os.environ) as client:
            problem = _problem(client)
    except InvalidInput as error:
        print(error, file=sys.stderr)
        return 2
    if problem is not None:
        print(f"not serving: {problem}", file=sys.stderr)
    return 0 if problem is None else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.client.health", description="Exits 0 when a server serves."
    )
    parser.add_argument("address", nargs="?", metavar="HOST:PORT", help="default: this container's server")
    parser.add_argument("--tls-ca", type=Path, help="PEM file; speak TLS, trust this CA")
    parser.add_argument("--tls-certificate", type=Path, help="PEM file; who asks, for a server that wants it")
    parser.add_argument("--tls-key", type=Path, help="PEM file; the certificate's key")
    parser.add_argument("--tls-server-name", metavar="NAME", help="name in the server's certificate")
    parser.add_argument("--timeout", type=float, default=_TIMEOUT_S, help="seconds  [default: %(default)s]")
    return parser


def _problem(client: Client) -> str | None:
    stub = health_pb2_grpc.HealthStub(client.channel)
    try:
        reply = client.call(stub.Check, health_pb2.HealthCheckRequest())
    except RequestFailed as error:
        return str(error)
    serving = reply.status == health_pb2.HealthCheckResponse.SERVING
    return None if serving else "the server starts or stops, or its queue is stuck"


def _client(asked: _Asked, environ: Mapping[str, str]) -> Client:
    target = target_of(asked.address or _own_address(environ))
    if asked.address is None or is_local(target):
        return _local_client(asked, target, environ)
    files = {"ca": asked.tls_ca, "certificate": asked.tls_certificate, "key": asked.tls_key}
    return Client(
        target,
        credentials=credentials(**files) if any(files.values()) else None,
        server_name=asked.tls_server_name,
        timeout_s=asked.timeout,
    )


def _local_client(asked: _Asked, target: str, environ: Mapping[str, str]) -> Client:
    """A client of a server of this machine: without proxies, and its certificate needs no authority."""
    chosen: grpc.ChannelCredentials | None = None
    name = asked.tls_server_name
    certificate, key = _own_pair(asked, environ)
    shown = shown_at(target, asked.timeout) if asked.tls_ca is None else None
    if asked.tls_ca is not None:
        chosen = credentials(ca=asked.tls_ca, certificate=certificate, key=key)
    elif shown is not None:
        trusted = ssl.DER_cert_to_PEM_cert(shown).encode()
        if certificate is not None and key is not None:
            chain, private = pem.pair(certificate, key)
            chosen = grpc.ssl_channel_credentials(trusted, private, chain)
        else:
            chosen = grpc.ssl_channel_credentials(trusted)
        names = names_in(shown)
        name = name or (names[0].replace("*", "any") if names else None)
    without_proxy = [("grpc.enable_http_proxy", 0)]
    return Client(
        target, credentials=chosen, server_name=name, options=without_proxy, timeout_s=asked.timeout
    )


def _own_pair(asked: _Asked, environ: Mapping[str, str]) -> tuple[Path | None, Path | None]:
    """The certificate and the key to show: those of the flags, else the server's own."""
    pem.check_both(asked.tls_certificate, asked.tls_key)
    if asked.tls_certificate is not None:
        return asked.tls_certificate, asked.tls_key
    names = ("COROLLA_TLS_CERTIFICATE", "COROLLA_TLS_KEY")
    certificate, key = (Path(environ[name]) if environ.get(name) else None for name in names)
    return (certificate, key) if certificate is not None and key is not None else (None, None)


def _own_address(environ: Mapping[str, str]) -> str:
    """Where the server of this container listens, by the variables that it reads too."""
    default_host, default_port = DEFAULT_ADDRESS.split(":")
    host = host_of(environ.get("COROLLA_HOST") or default_host)
    if host.startswith(UNIX):
        return host
    port = environ.get("COROLLA_PORT") or default_port
    if is_link_address(port):
        port = default_port
    place = _EVERYWHERE.get(host, host)
    return joined(place, int(port)) if port.isdigit() else f"{place}:{port}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
