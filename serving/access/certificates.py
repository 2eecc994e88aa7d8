"""A server's certificates, read again when their files are renewed. No torch."""

import logging
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from petl_vit.errors import InvalidInput
from serving.pem import authorities, pair

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Pem:
    certificate: bytes
    key: bytes
    client_ca: bytes | None


class ServerCertificates:
    """The certificates of a server, read again when their files have changed.

    Files that are no pair, as in the middle of a renewal, change nothing: the last good ones go on serving.

    Args:
        certificate, key: PEM files of the chain and of its key.
        client_ca: PEM file of the authorities whose certificates clients must show; None asks for none.

    Raises:
        InvalidInput: A file cannot be read, or they are not a pair.
    """

    def __init__(self, *, certificate: str, key: str, client_ca: str | None) -> None:
        self._certificate, self._key = Path(certificate), Path(key)
        self._client_ca = None if client_ca is None else Path(client_ca)
        self._seen, self._said = self._state(), ""
        self._pem = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """gRPC's, which ask for every new connection whether the files have changed."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._pem),
            self.changed,  # type: ignore[arg-type]  # it may return None
            require_client_authentication=self._client_ca is not None,
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The certificates, if they are others than before; None keeps those."""
        state = self._state()
        if state == self._seen:
            return None
        try:
            pem = self._read()
        except InvalidInput as error:
            if str(error) != self._said:
                _log.warning("the certificate on disk is not served, the one before goes on: %s", error)
            self._said = str(error)
            if not _passing(error):
                self._seen = state
            return None
        self._seen, self._said = state, ""
        if pem == self._pem:
            return None
        self._pem = pem
        _log.info("new connections get the renewed certificate %s", self._certificate)
        return _configuration(pem)

    def _read(self) -> _Pem:
        certificate, key = pair(self._certificate, self._key)
        ca = None if self._client_ca is None else authorities(self._client_ca, "tls_client_ca")
        return _Pem(certificate=certificate, key=key, client_ca=ca)

    def _state(self) -> tuple[tuple[int, ...] | None, ...]:
        """What changes when a file is written again, or when Kubernetes replaces the link to all of them."""
        return tuple(
            None if path is None else _state_of(path)
            for path in (self._certificate, self._key, self._client_ca)
        )


def _passing(error: InvalidInput) -> bool:
    """Whether a file could not be read, which may work the next time, rather than says nothing of use."""
    cause = error.__cause__
    return isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError | FileNotFoundError)


def _state_of(path: Path) -> tuple[int, ...] | None:
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def _configuration(pem: _Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.client_ca)
