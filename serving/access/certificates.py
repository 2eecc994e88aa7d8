"""A server's certificates, read again when their files are renewed. No torch."""

from dataclasses import dataclass
from pathlib import Path

import grpc

from serving.pem import authorities, pair
from serving.renewed_files import RenewedFiles


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
        chain, private = Path(certificate), Path(key)
        ca = None if client_ca is None else Path(client_ca)

        def read() -> _Pem:
            shown, secret = pair(chain, private)
            trusted = None if ca is None else authorities(ca, "tls_client_ca")
            return _Pem(certificate=shown, key=secret, client_ca=trusted)

        self._asks = ca is not None
        paths = [chain, private, *([] if ca is None else [ca])]
        self._files = RenewedFiles(paths, read, what=f"certificate {certificate}")

    def credentials(self) -> grpc.ServerCredentials:
        """gRPC's, which ask for every new connection whether the files have changed."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._files.content),
            self.changed,  # type: ignore[arg-type]  # it may return None
            require_client_authentication=self._asks,
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The certificates, if they are others than before; None keeps those."""
        return _configuration(self._files.content) if self._files.changed() else None


def _configuration(pem: _Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.client_ca)
