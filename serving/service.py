"""The service: from names to answers over one resident backbone, without ports.

A server puts ports in front of it; bulk classification and other runtimes use it directly.
"""

import asyncio
import logging
import platform
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import torch
from prometheus_client import CollectorRegistry

from model_store.format.trust import TrustedKeys
from model_store.resolution.precision import checked_loader
from model_store.resolution.reference import Referenced
from model_store.store import Store
from petl_vit.architecture import describe
from petl_vit.arena import Arena
from petl_vit.device import chosen_device, use_threads
from petl_vit.errors import InvalidInput
from petl_vit.precision import Precision
from petl_vit.slots import Slots
from serving.answer.classifier import Classifier
from serving.answer.frozen import FrozenShare
from serving.answer.lookups import Lookups
from serving.engine.backend import Backend, TorchBackend, VitOf
from serving.engine.batcher import Batcher
from serving.engine.engine import Engine, Job, Logits
from serving.engine.precision import PrecisionCheck
from serving.engine.weights import TaskWeights
from serving.metrics.events import Metrics
from serving.metrics.label_requests import Sampling
from serving.metrics.label_values import Domains
from serving.metrics.prediction_ids import PredictionIds, key_from
from serving.metrics.recorder import Recorder
from serving.metrics.series import Key
from serving.onnx.backend import OnnxBackend
from serving.registry.adapter_cache import AdapterCache
from serving.registry.catalog import Catalog, Plan
from serving.registry.changes import Changes
from serving.registry.references import RouteReferences
from serving.registry.watcher import Watcher
from serving.settings import Settings

_log = logging.getLogger(__name__)

_LOOKUP_THREADS = 8


class Service:
    """One backbone, its adapters, and what answers with them. A process can have several.

    Args:
        settings: Of a server; those of its ports are ignored.
        registry: Where its metrics are registered; None makes one.
        kept: What was counted of labels before; see `Metrics`.
        fair: Whether those who wait share the engine; see `Batcher`.

    Raises:
        NotFound: There is no store, or it has no such backbone.
        InvalidInput: A setting cannot work; names it.
        Corrupt: The backbone's files are damaged.
    """

    def __init__(
        self,
        settings: Settings,
        registry: CollectorRegistry | None = None,
        kept: Mapping[Key, float] | None = MappingProxyType({}),
        *,
        fair: bool = True,
    ) -> None:
        self.settings = settings
        self.weights = TaskWeights.read(settings.weights)
        self.threads = use_threads(settings.threads)
        trusted = None if settings.trusted_keys is None else TrustedKeys(Path(settings.trusted_keys))
        self.store = Store.open(settings.store, trusted=trusted, cache=settings.opened_cache(), create=False)
        record = self.store.backbones.get(settings.backbone)
        self.device = chosen_device(settings.device)
        self.catalog = Catalog(self.store, record.digest)
        self.precision, self.loader = checked_loader(
            _precision(settings), self.device, self.store, record, self.catalog.served()
        )
        self.metrics = self._metrics(CollectorRegistry() if registry is None else registry, kept)
        self.pool = ThreadPoolExecutor(settings.decoders(), thread_name_prefix="pool")
        self._lookup_threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="lookups")
        self.lookups = Lookups(self._lookup_threads, settings.stall_s)
        self.engine_thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self.slots = self._slots()
        self.engine = Engine(
            _backend(settings, self.loader.vit, self.slots), slots=self.slots, metrics=self.metrics
        )
        self.batcher: Batcher[Job, Logits] = Batcher(
            self.engine.run,
            executor=self.engine_thread,
            max_batch_rows=settings.max_batch_rows,
            max_batch_s=settings.max_batch_ms / 1000,
            max_queue_rows=settings.max_queue_rows,
            max_queue_bytes=settings.max_queue_bytes,
            metrics=self.metrics,
            fair=fair,
        )
        self.check = self._check()
        self.adapter_cache = self._adapter_cache()
        self.prediction_ids = PredictionIds(*_keys(settings))
        self.classifier = Classifier(
            catalog=self.catalog,
            cache=self.adapter_cache,
            batcher=self.batcher,
            recorder=Recorder(
                self.metrics,
                self.prediction_ids,
                Sampling(share=settings.label_share, boost=settings.label_boost),
            ),
            pool=self.pool,
            max_images=settings.max_images,
            max_pixels=settings.max_pixels,
            cascade_full_share=settings.cascade_full_share,
            frozen_share=FrozenShare(settings.frozen_share, self.loader.base_head),
            lookups=self.lookups,
            weights=self.weights,
        )
        self.references = RouteReferences(self.catalog, show=self._compare)
        self._watch_thread = ThreadPoolExecutor(1, thread_name_prefix="watcher")
        self.watcher = Watcher(
            self.catalog,
            load=lambda plan: self.adapter_cache.models(plan.resolved),
            announce=self.classifier.announce,
            changes=Changes(self.store),
            compare=lambda changed: self.references.follow(changed=changed),
            every_s=settings.refresh_s,
            stall_s=settings.stall_s,
            pool=self._watch_thread,
        )
        if self.weights:
            for problem in self.weights.unused(record.spec.name for record in self.store.tasks.list()):
                _log.warning("--weights: %s", problem)
        for setting, reason in self._without_effect():
            _log.warning("--%s has no effect here: %s", setting.replace("_", "-"), reason)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Classifier]:
        """The warm classifier, for as long as the block lasts; queued work is finished at its end."""
        self.start()
        try:
            await self.warm()
            yield self.classifier
        finally:
            await self.drain()
            self.close()

    def start(self) -> None:
        """Begins to take work and to follow the store's names."""
        self.batcher.start()
        if self.check is not None:
            self.check.start(self.adapter_cache)
        self._watch = asyncio.create_task(self.watcher.run())

    async def warm(self) -> None:
        """Runs every image size once, and makes the named routes known to the metrics."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.engine_thread, self._warm_sizes)
        for _, plan in await loop.run_in_executor(self.pool, self.catalog.named_routes):
            self.classifier.announce(plan)
        await loop.run_in_executor(self.pool, self.references.start)

    async def drain(self) -> bool:
        """Takes no more work and finishes what is queued. Returns whether all of it was done in time."""
        self._watch.cancel()
        return await self.batcher.drain(self.settings.drain_s)

    def close(self) -> None:
        """Ends the threads."""
        self.adapter_cache.close()
        if self.check is not None:
            self.check.close()
        for threads in (self._watch_thread, self._lookup_threads, self.pool, self.engine_thread):
            threads.shutdown(wait=False, cancel_futures=True)

    @property
    def threads_text(self) -> str:
        """How many threads compute and decode, and why."""
        computing = self.threads.count
        noun = "thread computes" if computing == 1 else "threads compute"
        return f"{computing} {noun}, {self.settings.decoders()} decode: {self.threads.reason}"

    @property
    def slots_have_bytes(self) -> bool:
        """Whether slots are copies; PyTorch on a CPU uses the registered adapters themselves."""
        return self.device.type != "cpu" or self.settings.backend != "torch"

    def _compare(self, name: str, plan: Plan, with_: Referenced) -> None:
        """Shows in the metrics what a named route is compared with; they may not know the route yet."""
        self.classifier.announce(plan)
        self.metrics.set_temperature(name, plan.temperature)
        self.metrics.set_reference(name, with_.reference, with_.stale)

    def _warm_sizes(self) -> None:
        for size in self.catalog.image_sizes():
            self.engine.warm(size)
        self.engine.warmed = True

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        """The settings of this start that change nothing on this machine, and why."""
        chosen = self.settings.model_fields_set
        if "device_bytes" in chosen and not self.slots_have_bytes:
            yield "device_bytes", "a forward uses adapters where --host-bytes registers them"
        if "cache_bytes" in chosen and self.settings.cache_bytes and self.settings.cache is None:
            yield "cache_bytes", "there is no --cache"
        if "bf16_fallback" in chosen and self.check is None:
            yield "bf16_fallback", f"the backbone computes in {self.precision}"

    def _check(self) -> PrecisionCheck | None:
        """Compares adapters with fp32; None where the backbone computes in fp32."""
        if self.precision is not Precision.BF16:
            return None
        return PrecisionCheck(
            self.loader,
            fallback=self.settings.bf16_fallback,
            metrics=self.metrics,
            busy=lambda: self.batcher.busy,
        )

    def _adapter_cache(self) -> AdapterCache:
        check = self.check
        return AdapterCache(
            self.loader if check is None else check,
            slots=self.slots,
            max_bytes=self.settings.registered_bytes(beside_gpu=self.device.type != "cpu"),
            metrics=self.metrics,
            busy=lambda: self.batcher.busy,
            outdated=lambda adapter: check is not None and check.outdated(adapter),
            difference=lambda digest: None if check is None else check.difference(digest),
        )

    def _metrics(self, registry: CollectorRegistry, kept: Mapping[Key, float] | None) -> Metrics:
        metrics = Metrics(registry, Domains(self.settings.domain_names), kept=kept)
        record = self.loader.record
        metrics.set_backbone(
            digest=record.digest,
            architecture=record.config.architecture,
            size=self.loader.backbone_bytes,
        )
        metrics.set_build(
            version=version("corolla"),
            python=platform.python_version(),
            torch=str(torch.__version__),
            device=str(self.device),
            precision=str(self.precision),
        )
        return metrics

    def _slots(self) -> Slots:
        settings, arena = self.settings, None
        if settings.backend == "graph":
            arena = Arena(
                describe(self.loader.record.config),
                nbytes=settings.device_bytes,
                slots=settings.slots,
                device=self.device,
            )
        return Slots(
            self.device,
            count=settings.slots,
            max_bytes=settings.device_bytes if self.slots_have_bytes else None,
            aliased=not self.slots_have_bytes,
            arena=arena,
        )


def _backend(settings: Settings, vit_of: VitOf, slots: Slots) -> Backend:
    match settings.backend:
        case "graph":
            from serving.engine.graph_backend import GraphBackend  # Triton is not everywhere

            return GraphBackend(vit_of, slots)
        case "onnx":
            return OnnxBackend(vit_of, slots, threads=settings.threads)
    return TorchBackend(vit_of, slots)


def _precision(settings: Settings) -> Precision:
    precision = Precision(settings.precision)
    if settings.backend != "onnx":
        return precision
    if precision is Precision.BF16:
        raise InvalidInput(
            "the ONNX Runtime back end computes in fp32",
            field="precision",
            remedy="leave --precision out, or start with --backend torch",
        )
    return Precision.FP32


def _keys(settings: Settings) -> list[bytes]:
    """The keys of prediction ids; only that which seals is made where it is missing."""
    return [key_from(path, create=number == 0) for number, path in enumerate(settings.key_files)]
