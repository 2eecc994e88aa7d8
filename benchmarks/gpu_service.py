"""What a server on a GPU adds to its forwards: gRPC with JPEGs, first answers of adapters, decoding."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import torch
import torchvision
from rich.table import Table
from torch import Tensor

from benchmarks import hotload
from benchmarks.gpu_callers import IN_FLIGHT, TIMEOUT_S, callers
from benchmarks.gpu_forward import Stage
from benchmarks.gpu_setting import Found, Setting, said
from benchmarks.interleave import speed_ratio
from benchmarks.pictures import jpeg
from benchmarks.processes import Corolla, corolla
from benchmarks.stores import TASK, Shelf, shelf
from model_store.routes.text import parse_route
from petl_vit.cpus import usable_cpus
from petl_vit.preprocess import decode as decoded
from serving.client.admin import AdminClient
from serving.client.blocking import Client
from serving.engine.engine import Job
from serving.service import Service

ADAPTERS = 8
SERVED, BARE = "gRPC, JPEG", "engine alone"


@contextmanager
def _server(found: Shelf, setting: Setting) -> Iterator[Corolla]:
    flags = ["--device", setting.device.type, "--precision", setting.precision, "--backend", setting.backend]
    threads = min(32, usable_cpus().count)
    flags += ["--max-batch-rows", str(IN_FLIGHT), "--decode-threads", str(threads)]
    with corolla(found, *flags) as server:
        yield server


# Served, against the engine alone


def served(stage: Stage) -> Found:
    """Images a second of a server under JPEGs, over those of the engine on decoded tensors."""
    setting = stage.setting
    with ExitStack() as stack:
        found = stack.enter_context(shelf(stage.host, ["lora"], ADAPTERS))
        server = stack.enter_context(_server(found, setting))
        send = stack.enter_context(callers(server.address, found.adapters, TASK))
        variants: dict[str, Callable[[], object]] = {
            SERVED: partial(send, setting.requests),
            BARE: _engine(found, setting),
        }
        taken = setting.costs(variants, rounds=max(2, setting.rounds // 4))
    speeds = {name: setting.requests / statistics.median(seconds) for name, seconds in taken.items()}
    title = f"{IN_FLIGHT} in flight, {setting.architecture}"
    shown = Table("way", "images / s", "speed / alone", title=title)
    for name, speed in speeds.items():
        shown.add_row(name, f"{speed:.0f}", f"{speed_ratio(taken, name, BARE):.3f}")
    return Found(
        figures={
            "served_over_inprocess": speed_ratio(taken, SERVED, BARE),
            "served_images_per_s": speeds[SERVED],
            "inprocess_images_per_s": speeds[BARE],
        },
        tables=[shown],
    )


def _engine(found: Shelf, setting: Setting) -> Callable[[], object]:
    """As many images through a server's engine, decoded, as many at a time as the server has in flight."""
    size = found.preprocess.image_size
    service = Service(
        found.settings(device=setting.device.type, precision=setting.precision, backend=setting.backend)
    )
    plans = [service.catalog.plan(TASK, parse_route(name), extrapolate=False) for name in found.adapters]
    models = [service.adapter_cache.models(plan.resolved) for plan in plans]
    images = torch.randn(IN_FLIGHT, 3, size, size)
    jobs = [Job(image=image, models=models[i % len(models)]) for i, image in enumerate(images)]

    def run() -> None:
        for _ in range(setting.requests // IN_FLIGHT):
            answers = service.engine.run(jobs)
            assert not any(isinstance(answer, Exception) for answer in answers), answers

    return run


# First answers


def first_answers(stage: Stage) -> Found:
    """The first answer under a LoRA of the store minus one under a warm one."""
    setting = stage.setting
    with ExitStack() as stack:
        found = stack.enter_context(shelf(stage.host, ["lora"], setting.first_answers + 1))
        server = stack.enter_context(_server(found, setting))
        client = stack.enter_context(Client(server.address, timeout_s=TIMEOUT_S))
        image = jpeg(0)

        def ask(name: str) -> None:
            reply = client.classify([image], route=name, task=TASK)
            assert not reply.results[0].error.code, reply.results[0].error.message

        asked = hotload.Server(found=found, ask=ask, admin=AdminClient(client))
        added = [1000 * seconds for seconds in hotload.first_answers(asked, found.adapters)]
    shown = Table("first answer - warm", "ms", title=f"{len(added)} LoRAs")
    for name, value in (("p50", statistics.median(added)), ("p95", hotload.percentile(added, 95))):
        shown.add_row(name, f"{value:.2f}")
    return Found(figures={"hotload_p50_ms": statistics.median(added)}, tables=[shown])


# Decoding


def decode(stage: Stage) -> Found:
    """JPEGs a second by a pool of threads on the CPU, and by the GPU's decoder where torchvision has it."""
    setting = stage.setting
    files = [jpeg(seed % 16) for seed in range(setting.jpegs)]
    variants: dict[str, Callable[[], object]] = {}
    errors = {}
    threads = usable_cpus().count
    with ThreadPoolExecutor(threads) as pool:
        variants["cpu"] = lambda: list(pool.map(decoded, files))
        try:
            on_gpu = partial(_on_gpu, [torch.from_numpy(np.frombuffer(f, np.uint8).copy()) for f in files])
            if setting.on_gpu:
                on_gpu()
                variants["cuda"] = on_gpu
        except Exception as error:  # built without nvJPEG, or a driver without it
            errors["decode, cuda"] = said(error)
        taken = setting.costs(variants, rounds=max(2, setting.rounds // 4))
    speeds = {name: len(files) / statistics.median(seconds) for name, seconds in taken.items()}
    shown = Table("decoder", "images / s", title=f"JPEGs of 500 x 375, {threads} CPU threads")
    for name, speed in speeds.items():
        shown.add_row(name, f"{speed:.0f}")
    figures = {f"{name}_images_per_s": speeds.get(name) for name in ("cpu", "cuda")}
    return Found(figures={"decode": figures}, tables=[shown], errors=errors)


def _on_gpu(files: Sequence[Tensor]) -> object:
    mode = torchvision.io.ImageReadMode.RGB
    return torchvision.io.decode_jpeg(list(files), mode=mode, device="cuda")
