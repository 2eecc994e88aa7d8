"""Who may see what a server says: the address it listens on, and TLS."""

from pathlib import Path

import grpc

from petl_vit.errors import InvalidInput
from serving import certificates
from serving.settings import Settings


def check(settings: Settings) -> None:
    """Images and labels leave the machine by TLS only, or where that is asked for.

    Raises:
        InvalidInput: Names the setting.
    """
    certificates.check_both(settings.tls_certificate, settings.tls_key)
    if settings.tls_client_ca is not None and settings.tls_certificate is None:
        raise InvalidInput(
            "clients show certificates over TLS only",
            field="tls-client-ca",
            remedy="set --tls-certificate and --tls-key too",
        )
    if not settings.loopback and settings.tls_certificate is None and not settings.insecure:
        raise InvalidInput(
            f"listening on {settings.host} without TLS would show images and labels to the network",
            field="host",
            remedy="set --tls-certificate and --tls-key, or --insecure on a network you trust",
        )


def listen(server: grpc.aio.Server, settings: Settings) -> int:
    """Takes the address of the settings; returns the port.

    Raises:
        InvalidInput: The port is taken, or the certificates cannot be used.
    """
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.port}"
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
    ca = certificates.read(Path(settings.tls_client_ca), "tls-client-ca")
    return grpc.ssl_server_credentials([(key, certificate)], root_certificates=ca, require_client_auth=True)
