"""PEM files of TLS, read and checked: of a bad pair, gRPC itself says only that nothing answers. No torch."""

import codecs
import ssl
from datetime import UTC, datetime
from pathlib import Path

from petl_vit.errors import InvalidInput


def pair(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """The bytes of a certificate and of its key.

    Raises:
        InvalidInput: One cannot be read, or they are not a pair.
    """
    pem = read(certificate, "tls_certificate"), read(key, "tls_key")
    server_context(certificate, key)
    return pem


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What a server of Python's own speaks TLS by; it asks clients for no certificate.

    Raises:
        InvalidInput: One cannot be read, or they are not a pair.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # For a key with a passphrase, OpenSSL would ask on the terminal.
        context.load_cert_chain(certificate, key, lambda: "")
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or "not PEM"
        raise InvalidInput(
            f"{certificate} and {key} are not a certificate and its key ({reason})",
            field="tls_certificate",
            remedy="name PEM files of one pair, the key without a passphrase",
        ) from error
    return context


def authorities(path: Path, field: str) -> bytes:
    """The bytes of a file of certificates that sign others.

    Raises:
        InvalidInput: It cannot be read, or has no certificate.
    """
    certificates = read(path, field)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        raise InvalidInput(
            f"{path} has no certificate", field=field, remedy="name a PEM file of the authority's certificate"
        ) from error
    return certificates


def read(path: Path, field: str) -> bytes:
    """The bytes of a file.

    Raises:
        InvalidInput: It cannot be read, or is not plain text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}", field=field, remedy="name a PEM file") from error
    if data.startswith(codecs.BOM_UTF8):  # Python's TLS reads it, gRPC's does not
        raise InvalidInput(
            f"{path} begins with a byte order mark", field=field, remedy="save it as plain text without one"
        )
    return data


def validity(certificate: bytes) -> str | None:
    """What is wrong with a certificate's time, the first of a chain; None where it is valid now."""
    from cryptography import x509

    first, now = x509.load_pem_x509_certificate(certificate), datetime.now(UTC)
    if now > first.not_valid_after_utc:
        return f"expired on {first.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if now < first.not_valid_before_utc:
        return f"is not valid before {first.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    return None


def check_both(certificate: object, key: object) -> None:
    """Refuses one of a pair without the other.

    Raises:
        InvalidInput: Only one is set.
    """
    if (certificate is None) != (key is None):
        raise InvalidInput(
            "a certificate needs its key, and a key its certificate",
            field="tls_certificate",
            remedy="set both --tls-certificate and --tls-key",
        )
