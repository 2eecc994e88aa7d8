"""The certificate that a server shows, looked at without trusting it: to say whose it is. No gRPC."""

import ipaddress
import socket
import ssl

from serving.address import socket_path, split

_SUBJECT_ALT_NAME = b"\x06\x03\x55\x1d\x11"
_DNS, _IP = 0x82, 0x87
_OCTETS, _SEQUENCE = 0x04, 0x30


def shown_at(target: str, timeout_s: float) -> bytes | None:
    """The certificate (DER) that a server shows; None where TLS is not spoken, or nobody answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with _connected(target, timeout_s) as plain, context.wrap_socket(plain) as tls:
            return tls.getpeercert(binary_form=True)
    except OSError:
        return None


def _connected(target: str, timeout_s: float) -> socket.socket:
    path = socket_path(target)
    if path is None:
        return socket.create_connection(split(target), timeout_s)
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    plain.settimeout(timeout_s)
    try:
        plain.connect(str(path))
    except OSError:
        plain.close()
        raise
    return plain


def names_in(certificate: bytes) -> list[str]:
    """The host names and addresses that a certificate (DER) is for; empty where they cannot be read."""
    at = certificate.find(_SUBJECT_ALT_NAME)
    if at < 0:
        return []
    try:
        at += len(_SUBJECT_ALT_NAME)
        tag, start, end = _element(certificate, at)
        if tag != _OCTETS:  # whether the extension is critical comes before
            tag, start, end = _element(certificate, end)
        tag, start, end = _element(certificate, start)
        names = []
        while tag == _SEQUENCE and start < end:
            kind, value, start = _element(certificate, start)
            names += _name(kind, certificate[value:start])
        return names
    except (IndexError, ValueError):
        return []


def _name(kind: int, value: bytes) -> list[str]:
    if kind == _DNS:
        return [value.decode("ascii", "replace")]
    return [str(ipaddress.ip_address(value))] if kind == _IP else []


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start and end of the DER element at a place."""
    tag, length, start = data[at], data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(data[start : start + count], "big"), start + count
    return tag, start, start + length
