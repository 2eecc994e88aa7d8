"""A gRPC server that listens as ours does, with nothing but its health behind it."""

import asyncio
import threading
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from serving.access import connections, exposure
from serving.address import UNIX
from serving.settings import Settings
from tests.serving.world import WAIT_S

SERVING = health_pb2.HealthCheckResponse.SERVING


class Listening:
    """Listens where some settings say, in a thread of its own.

    Args:
        options: gRPC's channel arguments; None takes those of the settings.
    """

    def __init__(self, options: list[tuple[str, int]] | None = None, **settings: Any) -> None:
        self.settings = Settings(**({"port": 0} | settings))
        self._options = connections.options(self.settings) if options is None else options
        self._ready, self.address = threading.Event(), ""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="listening")

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = grpc.aio.server(options=self._options)
            servicer = health.aio.HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
            await servicer.set("", SERVING)
            port = exposure.listen(server, self.settings)
            await server.start()
            path = self.settings.socket
            self.address = f"127.0.0.1:{port}" if path is None else f"{UNIX}{path}"
        finally:
            self._ready.set()
        await self._stop.wait()
        await server.stop(grace=0)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(WAIT_S), "it does not listen"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
