"""How a client connects: where to, over what, and how soon again after an outage."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc

from serving.address import is_local, target_of
from serving.client.token import Bearer, Metadata, Token, check_exposure

ChannelOptions = Sequence[tuple[str, Any]]

_MAX_MESSAGE_BYTES = 256 * 2**20
_OPTIONS: ChannelOptions = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # gRPC doubles its pause after every failed connection, up to two minutes, and fails all calls meanwhile.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # How long one attempt may take; 20 s by default, which a host that drops packets would cost every time.
    ("grpc.min_reconnect_backoff_ms", 5000),
    # A server that comes back under another address is looked up again after this, by default after 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", 2000),
    # While a call waits, the server is asked whether it is there: one whose machine is gone says nothing, and
    # what stands between may end connections on which nothing is said.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a client connects to.

    Attributes:
        target: HOST:PORT, `unix:/path`, or another target of gRPC's.
        credentials: For TLS; None speaks plain text.
        server_name: The name that the server's certificate has, where it is not the target's host.
        options: Channel arguments of gRPC, which go before ours.
        bearer: The token that calls show; None shows none.
    """

    target: str
    credentials: grpc.ChannelCredentials | None = None
    server_name: str | None = None
    options: ChannelOptions = ()
    bearer: Bearer | None = None

    @classmethod
    def of(
        cls,
        address: str,
        credentials: grpc.ChannelCredentials | None,
        server_name: str | None,
        options: ChannelOptions,
    ) -> "Endpoint":
        """The endpoint of an address as people write it.

        Raises:
            InvalidInput: The address is not HOST:PORT or `unix:/path`.
        """
        return cls(
            target=target_of(address),
            credentials=grpc.ssl_channel_credentials()
            if credentials is None and server_name
            else credentials,
            server_name=server_name,
            options=options,
        )

    def showing(self, token: Token | None, *, insecure: bool) -> "Endpoint":
        """The endpoint whose calls show a token.

        Args:
            token: Its text, or the path of a file that holds it; None shows none.
            insecure: Send it in plain text to another machine, too.

        Raises:
            NotFound: Its file does not exist.
            InvalidInput: It is not a token, or others could read it on its way.
        """
        if token is None:
            return self
        check_exposure(self.target, encrypted=self.credentials is not None, insecure=insecure)
        return replace(self, bearer=Bearer(token))

    @property
    def metadata(self) -> Metadata:
        """The metadata of a call that is made now."""
        return () if self.bearer is None else self.bearer.metadata()

    @property
    def arguments(self) -> ChannelOptions:
        """gRPC's channel arguments."""
        chosen = dict(_OPTIONS)
        if is_local(self.target):
            # Proxies of the environment cannot reach this machine, and gRPC asks them unless no_proxy is set.
            chosen["grpc.enable_http_proxy"] = 0
        if self.server_name is not None:
            chosen["grpc.ssl_target_name_override"] = self.server_name
        return tuple((chosen | dict(self.options)).items())
