"""A gRPC server that writes down the metadata of calls, and ends each of them as it is told."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from tests.serving.certificates import Certificates


class Recording(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc has no types here
    """Answers no call.

    Attributes:
        calls: What the calls brought along, in the order of their arrival.
        code, details: How each of them ends.
    """

    def __init__(self) -> None:
        self.calls: list[dict[str, str]] = []
        self.code, self.details = grpc.StatusCode.UNIMPLEMENTED, "recorded"
        self.address = ""

    @property
    def shown(self) -> list[str | None]:
        """The authorization of each call; None where there was none."""
        return [call.get("authorization") for call in self.calls]

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        self.calls.append(dict(details.invocation_metadata))

        def refuse(request: Any, context: Any) -> Any:
            context.abort(self.code, self.details)

        streams = details.method.endswith("Stream")
        return (
            grpc.stream_stream_rpc_method_handler(refuse)
            if streams
            else grpc.unary_unary_rpc_method_handler(refuse)
        )


@contextmanager
def recording(certificates: Certificates | None = None, place: str = "127.0.0.1:0") -> Iterator[Recording]:
    """A server that listens, over TLS where there are certificates."""
    interceptor = Recording()
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, interceptors=[interceptor])
        if certificates is None:
            port = server.add_insecure_port(place)
        else:
            pair = (certificates.read("server.key"), certificates.read("server.pem"))
            port = server.add_secure_port(place, grpc.ssl_server_credentials([pair]))
        interceptor.address = place if place.startswith("unix:") else f"127.0.0.1:{port}"
        server.start()
        try:
            yield interceptor
        finally:
            server.stop(0).wait()
