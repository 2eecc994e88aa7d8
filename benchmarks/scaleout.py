"""What Ray Serve costs and gains: one bare server against one and two replicas behind Ray's gRPC ingress.

    python -m benchmarks.scaleout --quick

Every server computes with one thread. A closed loop keeps 32 requests of one JPEG in flight, over eight LoRA
adapters drawn at random. One cluster runs one set-up at a time, so each has a warm-up and rounds of its own.
All runs in one network namespace, because Ray's proxy listens on all interfaces.

images_per_s_bare, images_per_s_1, images_per_s_2: images a second of one bare server, one and two replicas.
latency_ms_bare, latency_ms_1: median of one request at a time; ingress_ms is their difference.
ingress_cpu_ms: CPU of all of Ray's processes and the replica for an image, less that of the bare server.
loads_per_call_affine, loads_per_call_random: adapters that two replicas loaded for a call, where each has
host memory for half of the adapters and 32 calls are in flight: with the router of deploy/ray, and with Ray's
own, which draws two replicas and takes the less busy one. With few calls in flight the loads of two replicas
differ by chance, and calls that leave the busier one load their adapter again.
"""

import os
import random
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import psutil
from rich.table import Table

from benchmarks import ray_cluster
from benchmarks.adapters import backbone
from benchmarks.pictures import jpeg
from benchmarks.processes import corolla
from benchmarks.report import Figures, emit, parser, progress, stop_on_terminate
from benchmarks.stores import TASK, Shelf, shelf
from benchmarks.traffic import IN_FLIGHT, ask_all
from model_store.routes.text import parse_route
from serving.client.blocking import Client
from serving.service import Service

ADAPTERS = 8
MANY = 64
_SET_UPS = {"bare": "corolla serve", "1": "Ray, 1 replica", "2": "Ray, 2 replicas"}
_INSIDE = "BENCH_ISOLATED"
_ONE_THREAD = {"num_cpus": 1, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}}


class Asking:
    """Sends images to adapters drawn at random.

    Args:
        adapters: How many there are to draw from.
    """

    def __init__(self, client: Client, found: Shelf, adapters: int) -> None:
        self._client = client
        self._names = random.Random(0).choices(found.adapters[:adapters], k=1021)
        self._jpegs = [jpeg(seed) for seed in range(IN_FLIGHT)]

    def __call__(self, number: int) -> None:
        route = self._names[number % len(self._names)]
        reply = self._client.classify([self._jpegs[number % IN_FLIGHT]], route=route, task=TASK)
        assert not reply.results[0].error.code, reply.results[0].error.message


def rate(ask: Callable[[int], object], requests: int, rounds: int) -> list[float]:
    """Images a second of each round, after one that is not counted."""
    found = []
    for _ in range(rounds + 1):
        started = time.monotonic()
        ask_all(ask, range(requests))
        found.append(requests / (time.monotonic() - started))
    return found[1:]


def latency_ms(ask: Callable[[int], object], requests: int) -> float:
    """The median of requests that are sent one at a time."""
    taken = []
    for number in range(requests):
        started = time.monotonic()
        ask(number)
        taken.append(time.monotonic() - started)
    return 1000 * statistics.median(taken)


def cpu_seconds() -> float:
    """CPU time of all processes of this namespace but this one, which sends."""
    total = 0.0
    for process in psutil.process_iter():
        if process.pid != os.getpid():
            times = process.cpu_times()
            total += times.user + times.system
    return total


def replicas(found: Shelf, count: int, *, affine: bool = True, **args: object) -> None:
    """So many replicas over a store, of one thread each.

    Args:
        affine: Whether they are behind the router of deploy/ray; else behind Ray's own.
        args: Settings of the servers.
    """
    from ray.serve.config import RequestRouterConfig

    flags = {"store": found.url, "device": "cpu", "threads": 1, "prediction_key_file": str(found.key_file)}
    options = {} if affine else {"request_router_config": RequestRouterConfig()}
    progress(f"replicas on Ray: {count}, {'by adapter' if affine else 'by chance'}")
    ray_cluster.deploy(flags | args, num_replicas=count, ray_actor_options=_ONE_THREAD, **options)


def loads() -> float:
    """Adapters that the replicas have loaded."""
    total = 0.0
    for target in ray_cluster.targets():
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=30) as reply:
            for line in reply.read().decode().splitlines():
                if line.startswith("corolla_adapter_load_duration_seconds_count"):
                    total += float(line.split()[-1])
    return total


def loads_per_call(client: Client, found: Shelf, calls: int) -> float:
    """Loads for a call, once every adapter has been asked for."""
    ask = Asking(client, found, MANY)
    # One replica gets fewer at a time than it has memory for: adapters in use cannot make room.
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        list(pool.map(ask, range(4 * MANY)))
        time.sleep(2 * ray_cluster.STATS_S)  # until the router has been told what replicas hold
        before = loads()
        list(pool.map(ask, range(4 * MANY, 4 * MANY + calls)))
    return (loads() - before) / calls


def measure(found: Shelf, *, requests: int, rounds: int, calls: int) -> dict[str, float]:
    """Every figure, by its key."""
    figures: dict[str, float] = {}
    nbytes = adapter_bytes(found) * MANY // 2
    progress("a bare server")
    with (
        corolla(found, "--threads", "1") as server,
        Client(server.address, timeout_s=600) as client,
    ):
        ask = Asking(client, found, ADAPTERS)
        before = server.tree.cpu_seconds()
        figures["images_per_s_bare"] = statistics.median(rate(ask, requests, rounds))
        spent = server.tree.cpu_seconds() - before
        figures["cpu_ms_bare"] = 1000 * spent / (requests * (rounds + 1))
        figures["latency_ms_bare"] = latency_ms(ask, requests // 4)
    with ray_cluster.cluster(cpus=4), Client(ray_cluster.ADDRESS, timeout_s=600) as client:
        ask = Asking(client, found, ADAPTERS)
        for count in (1, 2):
            replicas(found, count)
            before = cpu_seconds()
            figures[f"images_per_s_{count}"] = statistics.median(rate(ask, requests, rounds))
            figures[f"cpu_ms_{count}"] = 1000 * (cpu_seconds() - before) / (requests * (rounds + 1))
            figures[f"latency_ms_{count}"] = latency_ms(ask, requests // 4)
        for name, affine in (("affine", True), ("random", False)):
            replicas(found, 2, affine=affine, host_bytes=nbytes)
            figures[f"loads_per_call_{name}"] = loads_per_call(client, found, calls)
            progress(f"loads for a call: {figures[f'loads_per_call_{name}']:.3f}")
    figures["ingress_ms"] = figures["latency_ms_1"] - figures["latency_ms_bare"]
    figures["ingress_cpu_ms"] = figures["cpu_ms_1"] - figures["cpu_ms_bare"]
    return figures


def adapter_bytes(found: Shelf) -> int:
    """Host memory of one adapter; all have one shape."""
    service = Service(found.settings())
    plan = service.catalog.plan(TASK, parse_route(found.adapters[0]), extrapolate=False)
    service.adapter_cache.models(plan.resolved)
    (resident,) = service.adapter_cache.residents()
    service.close()
    return resident.registered_bytes


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    flags.add_argument("--architecture", default="vit_small_patch16_224")
    flags.add_argument("--image-size", type=int, default=224)
    flags.add_argument("--requests", type=int, default=128, help="of one round")
    flags.add_argument("--rounds", type=int)
    flags.add_argument("--calls", type=int, default=512, help="over which loads of adapters are counted")
    asked = flags.parse_args(given)
    if not os.environ.get(_INSIDE):
        sys.exit(_isolated(sys.argv[1:] if given is None else given))
    vit, _ = backbone(asked.architecture, asked.image_size)
    rounds = asked.rounds or (2 if asked.quick else 6)
    with shelf(vit, ["lora"], MANY) as found:
        figures = measure(found, requests=asked.requests, rounds=rounds, calls=asked.calls)
    table = Table("set-up", "images/s", "ms one at a time", "CPU ms an image", title=asked.architecture)
    for name in ("bare", "1", "2"):
        keys = (f"images_per_s_{name}", f"latency_ms_{name}", f"cpu_ms_{name}")
        table.add_row(_SET_UPS[name], *(f"{figures[key]:.1f}" for key in keys))
    loaded = Table("router", "adapters loaded for a call", title=f"{MANY} adapters, memory for {MANY // 2}")
    loaded.add_row("deploy/ray", f"{figures['loads_per_call_affine']:.3f}")
    loaded.add_row("Ray's own", f"{figures['loads_per_call_random']:.3f}")
    context: Figures = {
        "architecture": asked.architecture,
        "image_size": asked.image_size,
        "quick": asked.quick,
        "in_flight": IN_FLIGHT,
    }
    emit("scaleout", [table, loaded], {**context, **figures}, packages=("ray", "grpcio"))


def _isolated(flags: Sequence[str]) -> int:
    """Runs this benchmark in a network namespace; the exit code."""
    problem = ray_cluster.cannot_isolate()
    if problem is not None:
        print(f"it needs a network namespace: {problem}", file=sys.stderr)
        return 2
    command = ray_cluster.isolated([sys.executable, "-m", "benchmarks.scaleout", *flags])
    return subprocess.run(command, env=os.environ | {_INSIDE: "1"}).returncode


if __name__ == "__main__":
    stop_on_terminate()
    main()
