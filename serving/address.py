"""Addresses: HOST:PORT and Unix sockets, as people write them and as gRPC takes them. No torch, no gRPC."""

import ipaddress
import re
from pathlib import Path

from petl_vit.errors import InvalidInput

UNIX = "unix:"
_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})
_OTHER_TARGETS = ("unix-abstract:", "dns:", "ipv4:", "ipv6:", "xds:", "vsock:")
"""What gRPC resolves beside HOST:PORT and Unix sockets."""
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux, as the system's address has 108 bytes and ends with a zero."""


def socket_path(address: str) -> Path | None:
    """The path of `unix:/path`, `unix:path` or `unix:///path`; None for any other address.

    Raises:
        InvalidInput: The path is empty or longer than a socket's can be.
    """
    if not address.startswith(UNIX):
        return None
    text = address.removeprefix(UNIX)
    text = "/" + text.lstrip("/") if text.startswith("//") else text
    if not text.strip("/"):
        raise InvalidInput(
            f"{address!r} has no path", field="host", remedy="write it as in unix:/run/corolla.sock"
        )
    if len(text.encode()) > _PATH_BYTES:
        raise InvalidInput(
            f"the path has {len(text.encode())} bytes, and that of a Unix socket at most {_PATH_BYTES}",
            field="host",
            remedy="choose a shorter one",
        )
    return Path(text)


def host_of(text: str) -> str:
    """A host as the system takes it: `[::1]` without its brackets, without spaces around it."""
    text = text.strip()
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def joined(host: str, port: int) -> str:
    """HOST:PORT, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(target: str) -> tuple[str, int]:
    """The host and the port of a target; the port is 0 where there is none, as of a socket."""
    host, _, port = target.rpartition("/")[2].rpartition(":")
    return (host_of(host), int(port)) if host and port.isdigit() else (target, 0)


def is_loopback(host: str) -> bool:
    """Whether a host is reached from this machine alone: 127.0.0.0/8, ::1, localhost, a Unix socket."""
    if host.startswith(UNIX) or host.lower() == "localhost":
        return True
    address = _ip(host)
    return address is not None and address.is_loopback


def is_local(target: str) -> bool:
    """Whether a client's target is this machine, as far as its text tells."""
    if target.startswith((UNIX, "unix-abstract:")):
        return True
    host = _host(target.rpartition("/")[2].removeprefix("ipv4:").removeprefix("ipv6:").removeprefix("dns:"))
    if host.lower().rstrip(".") in _NAMES or host.lower().endswith(".localhost"):
        return True
    address = _ip(host)
    # A client that is told 0.0.0.0 or :: connects to this machine.
    return address is not None and (address.is_loopback or address.is_unspecified)


def target_of(text: str, *, field: str = "address") -> str:
    """The target of a client: HOST:PORT, `unix:/path`, or another target of gRPC's.

    Raises:
        InvalidInput: It is a URL, it has no port, or the port is not one.
    """
    text = text.strip()
    if text.startswith(UNIX):
        path = _about(field, text)
        return f"{UNIX}{path}"
    if text.startswith(_OTHER_TARGETS):
        return text
    url = _URL.match(text)
    if url:
        rest = text[url.end() :].partition("/")[0]
        remedy = f"write {rest}" if _has_port(rest) else "write HOST:PORT"
        tls = ", and --tls-ca for TLS" if url[0].startswith(("https", "grpcs")) else ""
        raise InvalidInput(
            f"{text!r} is a URL, and a server is named by HOST:PORT", field=field, remedy=remedy + tls
        )
    if not _has_port(text):
        raise InvalidInput(f"{text!r} is not HOST:PORT", field=field, remedy=_suggested(text))
    return text


def _about(field: str, text: str) -> Path | None:
    try:
        return socket_path(text)
    except InvalidInput as error:
        raise error.about(field) from error


def _has_port(text: str) -> bool:
    host, _, port = text.rpartition(":")
    if not host or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        return False
    return port.isascii() and port.isdigit() and 0 < int(port) <= 65535


def _suggested(text: str) -> str:
    if text.startswith("/"):
        return f"write {UNIX}{text} for a Unix socket"
    host = host_of(text)
    if host and (_ip(host) is not None or ":" not in host):
        return f"write it with the port, as in {joined(host, 50051)}"
    return "write it as in 127.0.0.1:50051 or [::1]:50051, the port from 1 to 65535"


def _host(target: str) -> str:
    host, _, port = target.rpartition(":")
    return host_of(host if host and port.isdigit() and not _ip(target) else target)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host_of(host).partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
