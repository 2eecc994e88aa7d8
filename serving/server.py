"""The server: builds a service, listens, warms up, serves, drains, stops.

Its health is NOT_SERVING until every image size has been through the engine, while the oldest queued row is
too old or the store hangs, and from the moment it is asked to stop; else SERVING. The health of the service
`live` is SERVING as long as the process is: a restart would wake neither a device nor a store.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from model_store.store import Store
from petl_vit.errors import CorollaError, InvalidInput, Overloaded, Unreachable
from serving import process
from serving.access import connections, exposure
from serving.access.authentication import Access
from serving.access.permitted_admin import PermittedAdmin
from serving.address import UNIX, joined
from serving.feedback.database import Database
from serving.feedback.feedback import Feedback
from serving.feedback.label_store import LabelStore
from serving.metrics.port import MetricsPort
from serving.metrics.port_tls import PortTls
from serving.metrics.port_tokens import PortTokens
from serving.metrics.series import Key
from serving.monitor.alarm_settings import SettingsByRoute
from serving.monitor.own import OwnStatus
from serving.oip.servicer import NEEDS as OIP_NEEDS
from serving.oip.servicer import SERVICE as OIP_SERVICE
from serving.oip.servicer import OipServicer
from serving.registry.admin import Admin
from serving.registry.changes import say_notes
from serving.rpc.admin_servicer import NEEDS as ADMIN_NEEDS
from serving.rpc.admin_servicer import SERVICE as ADMIN_SERVICE
from serving.rpc.admin_servicer import AdminServicer
from serving.rpc.authentication import Authentication, Need, Open
from serving.rpc.call import path
from serving.rpc.classifier_servicer import NEEDS, SERVICE, ClassifierServicer
from serving.rpc.health_servicer import HealthServicer
from serving.rpc.no_admin import NoAdmin
from serving.rpc.readable import Readable
from serving.rpc.request_ids import RequestIds
from serving.rpc.traced import TracedCalls
from serving.service import Service
from serving.settings import Settings
from serving.tracing import Tracing

_log = logging.getLogger(__name__)

LIVE = "live"
"""The service whose health says that the process lives, for liveness probes over gRPC."""
_ADMIN_THREADS = 2
_HEALTH_PERIOD_S = 1.0
_TEND_PERIOD_S = 1.0
_HEAP_PERIOD_S = 10.0
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
_NEEDS: Mapping[str, Need] = {
    **NEEDS,
    **ADMIN_NEEDS,
    **OIP_NEEDS,
    **{path(method): Open.NOTHING for method in _HEALTH.methods},
}
"""What each call needs of its caller where there are principals."""


class Server:
    """A service behind ports. A process can have several.

    Args:
        settings: Everything that can be chosen.

    Raises:
        NotFound: The store has no such backbone.
        InvalidInput: A setting cannot work; names it.
        Corrupt: The backbone's files are damaged.
    """

    def __init__(self, settings: Settings) -> None:
        exposure.check(settings)
        Store.open(settings.store, create=False)  # before files are made beside what may be a misspelt one
        self.settings = settings
        self._serving = self._has_served = False
        self._stalled: str | None = None
        self._stopping = asyncio.Event()
        registry = CollectorRegistry()
        alarms = SettingsByRoute.read(None if settings.alarms is None else Path(settings.alarms))
        self._status = OwnStatus(registry, unready=self._unready, alarms=alarms)
        # Opened before anything is loaded: to a probe, the process lives and is not ready.
        self._exporter = self._open_port(registry)
        self.port = 0
        with ExitStack() as undo:
            undo.callback(self._close_port)
            # Before the service shows any metric: no scrape sees labels counted from zero again.
            labels, kept, problem = _labels(settings)
            undo.callback(labels.close)
            self.service = service = Service(settings, registry, kept)
            undo.pop_all()
        self._feedback = Feedback(
            store=service.store,
            prediction_ids=service.prediction_ids,
            labels=labels,
            metrics=service.metrics,
            window_days=settings.label_window_days,
        )
        if problem is not None:
            self._feedback.not_open(problem)
        endpoint = settings.otlp_endpoint
        self._tracing = None if endpoint is None else Tracing(endpoint)
        self._access = None if settings.principals is None else self._open_access(settings.principals)
        self._admin_pool = ThreadPoolExecutor(_ADMIN_THREADS, thread_name_prefix="admin")
        self.admin = (Admin if self._access is None else PermittedAdmin)(
            store=service.store,
            catalog=service.catalog,
            cache=service.adapter_cache,
            watcher=service.watcher,
            registered_budget=service.adapter_cache.max_bytes,
            slot_budget=settings.device_bytes if service.slots_have_bytes else 0,
        )
        self._services = ["", SERVICE, OIP_SERVICE, *([ADMIN_SERVICE] if settings.takes_admin else [])]
        self._health = HealthServicer([*self._services, LIVE])

    def _open_port(self, registry: CollectorRegistry) -> MetricsPort | None:
        settings = self.settings
        if settings.metrics_port < 0:
            return None
        tokens = settings.metrics_token_file
        return MetricsPort(
            registry,
            port=settings.metrics_port,
            host=settings.scraped_host,
            unready=self._unready,
            pages=self._status.pages,
            tokens=None if tokens is None else PortTokens(Path(tokens)),
            tls=self._port_tls(),
        )

    def _port_tls(self) -> PortTls | None:
        settings = self.settings
        if not settings.metrics_tls:
            return None
        assert settings.tls_certificate is not None, "exposure.check refuses that"
        assert settings.tls_key is not None
        return PortTls(Path(settings.tls_certificate), Path(settings.tls_key))

    def _close_port(self) -> None:
        if self._exporter is not None:
            self._exporter.close()

    def _open_access(self, principals: str) -> Access:
        metrics = self.service.metrics
        access = Access(Path(principals), on_rows=metrics.callers.rows)
        metrics.callers.add([principal.name for principal in access.principals])
        _log.info("%d principals may call, by %s", len(access.principals), principals)
        return access

    @property
    def metrics_port(self) -> int:
        """Where metrics are scraped; -1 where they are not."""
        return -1 if self._exporter is None else self._exporter.port

    @property
    def metrics_url(self) -> str | None:
        """Where the status page is, and /metrics; None where there is no port."""
        return None if self._exporter is None else self._exporter.url

    @property
    def address(self) -> str:
        """Where it listens: HOST:PORT or `unix:/path`."""
        socket = self.settings.socket
        return joined(self.settings.host, self.port) if socket is None else f"{UNIX}{socket}"

    async def run(self, ready: "asyncio.Event | None" = None) -> None:
        """Serves until `stop` or SIGTERM, then drains. `ready` is set once it is SERVING, if it ever is."""
        server = await self._start()
        beside = (self._watch(), self._measure_heap(), self._tend(), self._follow_access())
        tasks = [asyncio.create_task(task) for task in beside]
        try:
            if await self._warmed():
                self._set_health(True)
                if ready is not None:
                    ready.set()
                await self._stopping.wait()
        finally:
            for task in tasks:
                task.cancel()
            await self._shut(server)

    async def _warmed(self) -> bool:
        """Warms up; whether that was done before it was asked to stop."""
        warming, stopping = asyncio.create_task(self._warm()), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({warming, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if warming.done():
                await warming  # raises what it raised
            return not self._stopping.is_set()
        finally:
            warming.cancel()
            stopping.cancel()

    async def _warm(self) -> None:
        await self.service.warm()
        await asyncio.to_thread(say_notes, self.service.catalog)

    def stop(self) -> None:
        """Asks the server to drain and stop. Signal handlers may call it."""
        self._stopping.set()

    @contextmanager
    def stopped_by_signals(self, then: Callable[[], object] = lambda: None) -> Iterator[None]:
        """SIGTERM, SIGINT and SIGHUP stop this server; not SIGHUP where it is ignored, as under nohup.

        The event loop's own handlers hear of a signal through a pipe, and not at all where it is full, as it
        is where much waits for a loop that is held up. These run in any case.

        Args:
            then: Called at the first signal, whether or not the loop goes on.
        """
        loop = asyncio.get_running_loop()
        heard = False

        def stop(number: int, frame: FrameType | None) -> None:
            nonlocal heard
            if not heard:
                heard = True
                loop.call_soon_threadsafe(self.stop)
                then()

        before = {number: signal.getsignal(number) for number in _STOPPING}
        for number, handler in before.items():
            if number != signal.SIGHUP or handler is not signal.SIG_IGN:
                signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not Python's

    async def _start(self) -> grpc.aio.Server:
        settings = self.settings
        server = grpc.aio.server(options=connections.options(settings), interceptors=self._interceptors())
        self._add_services(server)
        self._set_health(False)
        self._health.set(LIVE, serving=True)
        try:
            # Last, because gRPC frees a port only once it has served.
            self.port = exposure.listen(server, settings)
            await server.start()
        except BaseException:
            await asyncio.to_thread(self._close_port)
            await asyncio.to_thread(self._feedback.close)
            raise
        self.service.start()
        self._status.start(self.service.store.references)
        return server

    def _interceptors(self) -> list[grpc.aio.ServerInterceptor]:
        """A call gets its id; then who calls is asked, only where there are principals, then what it sent."""
        settings, metrics = self.settings, self.service.metrics
        found: list[grpc.aio.ServerInterceptor] = [RequestIds()]
        if self._tracing is not None:
            found.append(TracedCalls(self._tracing))
        if self._access is not None:
            certificates = settings.tls_client_ca is not None
            found.append(
                Authentication(self._access, needs=_NEEDS, certificates=certificates, metrics=metrics)
            )
        readable = Readable(
            [SERVICE, OIP_SERVICE, ADMIN_SERVICE],
            max_images=settings.max_images,
            max_bytes=settings.max_queue_bytes,
        )
        return [*found, readable]

    def _add_services(self, server: grpc.aio.Server) -> None:
        settings, service = self.settings, self.service
        ClassifierServicer(
            classifier=service.classifier,
            feedback=self._feedback,
            metrics=service.metrics,
            pool=service.pool,
            max_stream_requests=settings.max_stream_requests,
        ).add_to(server)
        OipServicer(
            classifier=service.classifier,
            catalog=service.catalog,
            admin=self.admin,
            takes_admin=settings.takes_admin,
            ready=lambda: self._serving,
            metrics=service.metrics,
            pool=service.pool,
            lookups=service.lookups,
            admin_pool=self._admin_pool,
            max_images=settings.max_images,
            max_stream_requests=settings.max_stream_requests,
        ).add_to(server)
        if settings.takes_admin:
            AdminServicer(admin=self.admin, metrics=service.metrics, pool=self._admin_pool).add_to(server)
        else:
            server.add_generic_rpc_handlers([NoAdmin(service.metrics)])
        reflected = [name for name in self._services if name] + [health.SERVICE_NAME, reflection.SERVICE_NAME]
        self._health.add_to(server)
        if settings.reflection:
            reflection.enable_server_reflection(reflected, server)

    async def _watch(self) -> None:
        """Sets health to NOT_SERVING while the engine or the store hangs."""
        serving = True
        while True:
            await asyncio.sleep(_HEALTH_PERIOD_S)
            self.service.metrics.set_tasks(len(asyncio.all_tasks()))
            self._stalled = self._stall()
            healthy = self._stalled is None
            if healthy != serving and self.service.engine.warmed:
                serving = healthy
                _log.log(*((logging.INFO, "ready again") if healthy else (logging.WARNING, self._stalled)))
                self._set_health(healthy)

    def _stall(self) -> str | None:
        """What hangs; None while nothing does."""
        limit = self.settings.stall_s
        if self.service.batcher.oldest_age_s >= limit:
            return f"stalled: the oldest queued or running row is older than {limit:g} s"
        if self.service.watcher.waiting_s >= limit:
            return f"stalled: the store has not answered for {limit:g} s"
        return None

    async def _measure_heap(self) -> None:
        """Shows what the C library holds."""
        while heap := process.heap_bytes():
            self.service.metrics.set_heap(*heap)
            await asyncio.sleep(_HEAP_PERIOD_S)

    async def _tend(self) -> None:
        """Looks after the labels; a database that does not answer holds up nothing else."""
        while True:
            await asyncio.sleep(_TEND_PERIOD_S)
            with suppress(Overloaded):  # then labels are taken
                await self._feedback.in_turn(self._feedback.tend)

    async def _follow_access(self) -> None:
        """Takes new principals and leaves revoked tokens out, as their file says."""
        access = self._access
        while access is not None:
            await asyncio.sleep(self.settings.refresh_s)
            try:
                principals = await asyncio.to_thread(access.changed)
                if principals is not None:
                    access.use(principals)  # here, as calls are counted by this thread
                    self.service.metrics.callers.add([principal.name for principal in access.principals])
            except Exception:
                _log.exception("the file of principals could not be followed, and is tried again")

    async def _shut(self, server: grpc.aio.Server) -> None:
        self._set_health(False)
        finished = await self.service.drain()
        _log.info("stopped; %s", "all queued work was done" if finished else "queued work was refused")
        await server.stop(grace=2.0)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
        await asyncio.to_thread(self._close_port)
        await asyncio.to_thread(self._status.close)
        await asyncio.to_thread(self._feedback.close)
        self._admin_pool.shutdown(wait=False, cancel_futures=True)
        self.service.close()

    def _unready(self) -> str | None:
        """Why requests are not served now; None while they are. Called from other threads."""
        if self._stopping.is_set():
            return "draining: it finishes its work and stops"
        if self._serving:
            return None
        if not self._has_served:
            return "starting"
        return self._stalled or "starting"

    def _set_health(self, serving: bool) -> None:
        serving = serving and not self._stopping.is_set()
        self._serving = serving
        self._has_served |= serving
        for name in self._services:
            self._health.set(name, serving=serving)
        self.service.metrics.set_ready(serving)


def _labels(settings: Settings) -> tuple[LabelStore, Mapping[Key, float] | None, CorollaError | None]:
    """Where labels are kept, and what was counted of them; or why that is not known yet.

    Raises:
        InvalidInput: It can never work, or is a file that was named and cannot be opened.
    """
    if settings.label_keep_days < settings.label_window_days:
        raise InvalidInput(
            f"{settings.label_keep_days:g} days, while labels are taken for {settings.label_window_days:g}",
            field="label_keep_days",
            remedy="keep labels at least as long as --label-window-days: else one could be counted twice",
        )
    folders = {path.absolute().parent for path in settings.key_files}
    if settings.labels is None and len(folders) > 1:
        raise InvalidInput(
            "the keys of prediction ids are in several folders, and labels are kept beside a key",
            field="labels",
            remedy="name the file that has them so far with --labels: a new one would count them twice",
        )
    database = Database(settings.labels_place)
    folder = Path(str(database)).parent if database.is_sqlite and settings.labels is not None else None
    if folder is not None and not folder.is_dir():
        raise InvalidInput(
            f"there is no folder {folder}", field="labels", remedy="make it, or name another file"
        )
    store = LabelStore(
        database,
        replica=settings.replica_name,
        keep_days=settings.label_keep_days,
        most_rows=settings.label_rows,
    )
    try:
        return store, store.look(), None
    except InvalidInput:
        store.close()
        raise
    except CorollaError as error:
        if settings.labels is not None and database.is_sqlite and isinstance(error, Unreachable):
            store.close()
            raise InvalidInput(error.problem, field=error.field, remedy=error.remedy) from error
        return store, None, error
