"""TLS of a client, from PEM files."""

from pathlib import Path

import grpc

from serving import pem


def credentials(
    *, ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> grpc.ChannelCredentials:
    """What a client shows and trusts over TLS; without a CA, the authorities that gRPC brings along.

    Raises:
        InvalidInput: A file cannot be read, or the certificate and the key do not belong together.
    """
    pem.check_both(certificate, key)
    trusted = None if ca is None else pem.authorities(ca, "tls_ca")
    if certificate is None or key is None:
        return grpc.ssl_channel_credentials(trusted)
    shown, private = pem.pair(certificate, key)
    return grpc.ssl_channel_credentials(trusted, private, shown)
