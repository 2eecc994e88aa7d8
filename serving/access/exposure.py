"""Who can reach a server: the address it listens on, and TLS. No torch."""

import errno
import socket
from contextlib import ExitStack
from pathlib import Path

import grpc

from petl_vit.errors import InvalidInput
from serving.access import certificates
from serving.settings import Settings


def check(settings: Settings) -> None:
    """Checks before a model is loaded: ports, certificates, and whether others could listen in.

    Images and labels leave the machine over TLS only, unless `insecure` is set.

    Raises:
        InvalidInput: Names the setting.
    """
    certificates.check_both(settings.tls_certificate, settings.tls_key)
    if settings.tls_client_ca is not None and settings.tls_certificate is None:
        raise InvalidInput(
            "clients show certificates over TLS only",
            field="tls_client_ca",
            remedy="set --tls-certificate and --tls-key too",
        )
    if not settings.loopback and settings.tls_certificate is None and not settings.insecure:
        raise InvalidInput(
            f"listening on {settings.host} without TLS would show images and labels to the network",
            field="host",
            remedy="set --tls-certificate and --tls-key, or --insecure on a network you trust",
        )
    if settings.tls_certificate is not None:
        _credentials(settings)
    check_ports(settings)


def check_ports(settings: Settings) -> None:
    """Binds both ports and frees them, so that one in use is reported before a model is loaded.

    Raises:
        InvalidInput: One is in use, or the host is not an address of this machine; names the setting.
    """
    with ExitStack() as sockets:
        for field, port in (("metrics_port", settings.metrics_port), ("port", settings.port)):
            try:
                sockets.enter_context(_bound(settings.host, port))
            except OSError as error:
                raise _cannot_listen(settings.host, port, field, error) from error


def _bound(host: str, port: int) -> socket.socket:
    """A socket on the first address of the host that can be bound; one of several is enough."""
    problem: OSError | None = None
    for family, kind, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        candidate = socket.socket(family, kind)
        try:
            # As servers do: a port whose last connections are still closing counts as free.
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            candidate.bind(address)
            return candidate
        except OSError as error:
            candidate.close()
            problem = problem or error
    assert problem is not None, "getaddrinfo found nothing and did not say so"
    raise problem


def _cannot_listen(host: str, port: int, field: str, error: OSError) -> InvalidInput:
    reason = (error.strerror or str(error)).lower()
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        remedy = "use 127.0.0.1, or another address of this machine"
        return InvalidInput(f"cannot listen on {host}: {reason}", field="host", remedy=remedy)
    remedy = f"choose another --{field.replace('_', '-')}, or 0 for a free one"
    return InvalidInput(f"cannot listen on {_address(host, port)}: {reason}", field=field, remedy=remedy)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(server: grpc.aio.Server, settings: Settings) -> int:
    """Makes a server listen on the address of the settings; returns the port.

    Raises:
        InvalidInput: The port is in use, or the certificates cannot be used.
    """
    address = _address(settings.host, settings.port)
    try:
        if settings.tls_certificate is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(settings))
    except RuntimeError as error:
        raise InvalidInput(
            f"cannot listen on {address}",
            field="port",
            remedy="choose another --port, or 0 for a free one",
        ) from error


def _credentials(settings: Settings) -> grpc.ServerCredentials:
    assert settings.tls_certificate is not None
    assert settings.tls_key is not None
    certificate, key = certificates.pair(Path(settings.tls_certificate), Path(settings.tls_key))
    if settings.tls_client_ca is None:
        return grpc.ssl_server_credentials([(key, certificate)])
    ca = certificates.read(Path(settings.tls_client_ca), "tls_client_ca")
    return grpc.ssl_server_credentials([(key, certificate)], root_certificates=ca, require_client_auth=True)
