"""Who can reach a server: the addresses it listens on, TLS, and the files of who may call. No torch."""

import errno
import logging
import socket
from contextlib import ExitStack
from pathlib import Path

import grpc

from petl_vit.errors import InvalidInput
from serving import address
from serving.access import unix_socket
from serving.access.certificates import ServerCertificates
from serving.access.principals_file import Principals
from serving.metrics.port_tokens import PortTokens
from serving.pem import check_both, validity
from serving.settings import Settings

_log = logging.getLogger(__name__)

_FIRST_FREE_PORT = 1024
"""Ports below it are for the system's administrator."""


def check(settings: Settings) -> None:
    """Checks before a model is loaded: ports, certificates, and whether others could listen in.

    Images and labels leave the machine over TLS only, unless `insecure` is set.

    Raises:
        InvalidInput: Names the setting.
    """
    check_both(settings.tls_certificate, settings.tls_key)
    if settings.tls_client_ca is not None and settings.tls_certificate is None:
        raise InvalidInput(
            "clients show certificates over TLS only",
            field="tls_client_ca",
            remedy="set --tls-certificate and --tls-key too",
        )
    if settings.metrics_tls and settings.tls_certificate is None:
        raise InvalidInput(
            "the metrics port has no certificate of its own",
            field="metrics_tls",
            remedy="set --tls-certificate and --tls-key too",
        )
    for field in ("host", "metrics_host"):
        if getattr(settings, field) == "":
            raise InvalidInput("the address is empty", field=field, remedy="name one, or leave the flag out")
    if settings.metrics_port >= 0:
        _check_name(settings.scraped_host, settings.metrics_port, _metrics_field(settings))
    if not settings.loopback and settings.tls_certificate is None and not settings.insecure:
        raise InvalidInput(
            f"listening on {settings.host} without TLS would show images and labels to the network",
            field="host",
            remedy="set --tls-certificate and --tls-key, or --insecure on a network you trust",
        )
    if settings.tls_certificate is not None:
        _certificates(settings)
        problem = validity(Path(settings.tls_certificate).read_bytes())
        if problem is not None:
            _log.warning("--tls-certificate: %s %s; clients refuse it", settings.tls_certificate, problem)
    _check_callers(settings)
    _check_metrics(settings)
    check_addresses(settings)


def _check_callers(settings: Settings) -> None:
    """Reads the file of who may call, and says so where tokens could be overheard."""
    if settings.principals is None:
        return
    Principals.read(Path(settings.principals))
    if not settings.loopback and settings.tls_certificate is None:
        _log.warning("--insecure: the tokens of --principals travel over the network in plain text")


def _check_metrics(settings: Settings) -> None:
    """Reads the tokens of the metrics port, and says what others can read of it."""
    scraped = settings.metrics_port >= 0 and not address.is_loopback(settings.scraped_host)
    if settings.metrics_token_file is not None:
        PortTokens(Path(settings.metrics_token_file)).read()
        if scraped and not settings.metrics_tls:
            _log.warning(
                "the tokens of --metrics-token-file travel in plain text; --metrics-tls encrypts them"
            )
    elif scraped and not settings.insecure:
        _log.warning(
            "the metrics port shows routes and their accuracy to whoever reaches %s; --metrics-token-file "
            "asks for a token, --metrics-host 127.0.0.1 keeps it on this machine",
            settings.scraped_host,
        )


def _metrics_field(settings: Settings) -> str:
    return "host" if settings.metrics_host is None else "metrics_host"


def _check_name(host: str, port: int, field: str) -> None:
    """Refuses a host that is mistyped, before it is called one of the network."""
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(host, port, field, field, error) from error


def check_addresses(settings: Settings) -> None:
    """Binds both ports and frees them, so that one in use is reported before a model is loaded.

    Raises:
        InvalidInput: One is in use, or the host is not an address of this machine; names the setting.
    """
    places = []
    if settings.metrics_port >= 0:
        places.append(
            ("metrics_port", _metrics_field(settings), settings.scraped_host, settings.metrics_port)
        )
    if settings.socket is not None:
        unix_socket.check(settings.socket)
    else:
        places.append(("port", "host", settings.host, settings.port))
    with ExitStack() as sockets:
        for field, host_field, host, port in places:
            try:
                sockets.enter_context(_bound(host, port))
            except (OSError, UnicodeError) as error:
                raise _cannot_listen(host, port, field, host_field, error) from error


def _bound(host: str, port: int) -> socket.socket:
    """A socket on the first address of the host that can be bound; one of several is enough."""
    problem: OSError | None = None
    for family, kind, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        candidate = socket.socket(family, kind)
        try:
            # As servers do: a port whose last connections are still closing counts as free.
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            candidate.bind(place)
            return candidate
        except OSError as error:
            candidate.close()
            problem = problem or error
    assert problem is not None, "getaddrinfo found nothing and did not say so"
    raise problem


def _cannot_listen(
    host: str, port: int, field: str, host_field: str, error: OSError | UnicodeError
) -> InvalidInput:
    reason = getattr(error, "strerror", None) or str(error)
    reason = reason[:1].lower() + reason[1:]
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE or (number == errno.EACCES and 0 < port < _FIRST_FREE_PORT):
        return InvalidInput(
            f"cannot listen on {address.joined(host, port)}: {reason}",
            field=field,
            remedy=f"choose another --{field.replace('_', '-')}, or 0 for a free one",
        )
    # Whatever else is wrong with an address is wrong with its host, whichever port was tried first.
    remedy = "use 127.0.0.1, or another address of this machine"
    if "://" in host or host.count(":") == 1:
        remedy = "give the host alone, and its port by --port"
    problem = f"cannot listen on {host}: {reason}"
    if isinstance(error, socket.gaierror | UnicodeError):
        problem = f"{host!r} is not known as a name or an address ({reason})"
    return InvalidInput(problem, field=host_field, remedy=remedy)


def listen(server: grpc.aio.Server, settings: Settings) -> int:
    """Makes a server listen on the address of the settings; returns the port, of a Unix socket 0.

    Raises:
        InvalidInput: The address is in use, or the certificates cannot be used.
    """
    if settings.socket is not None:
        with unix_socket.claim(settings.socket, mode=int(settings.socket_mode, 8)):
            _listen(server, settings, f"{address.UNIX}{settings.socket}")
        return 0
    return _listen(server, settings, address.joined(settings.host, settings.port))


def _listen(server: grpc.aio.Server, settings: Settings, place: str) -> int:
    try:
        if settings.tls_certificate is None:
            return server.add_insecure_port(place)
        return server.add_secure_port(place, _certificates(settings).credentials())
    except RuntimeError as error:
        raise InvalidInput(
            f"cannot listen on {place}",
            field="host" if settings.socket is not None else "port",
            remedy="choose another --port, or 0 for a free one",
        ) from error


def _certificates(settings: Settings) -> ServerCertificates:
    assert settings.tls_certificate is not None
    assert settings.tls_key is not None
    return ServerCertificates(
        certificate=settings.tls_certificate, key=settings.tls_key, client_ca=settings.tls_client_ca
    )
