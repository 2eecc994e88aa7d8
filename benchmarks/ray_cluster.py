"""A Ray cluster of this machine with the server's replicas, apart from every network.

Ray's gRPC proxy listens on all interfaces, so the processes that use it run in a network namespace in which
there is only loopback: `isolated` says how a command gets there.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.processes import STOP_S

GRPC_PORT, HTTP_PORT = 9000, 8000
ADDRESS = f"127.0.0.1:{GRPC_PORT}"
TARGETS = f"http://127.0.0.1:{HTTP_PORT}/targets"
STATS_S = 2.0
"""How often the application tells the router what replicas hold."""

_RAY_PORT = 6379
_TRIES = 5
_UP_AND_RUNNING = "Ray runtime started"
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",  # nobody else is in the namespace
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "300",
    "RAY_worker_niceness": "0",  # 15 by default: replicas would starve beside others on this machine
    "RAY_USAGE_STATS_ENABLED": "0",
}
_UP = 'ip link set lo up && exec "$@"'


def isolated(command: Sequence[str]) -> list[str]:
    """A command that runs another one with loopback as its only network; what it started ends with it."""
    spaces = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["unshare", *spaces, "sh", "-c", _UP, "sh", *command]


@cache
def cannot_isolate() -> str | None:
    """Why this machine does not make network namespaces; None where it does."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "unshare or ip is not installed (util-linux, iproute2)"
    made = subprocess.run(isolated(["true"]), capture_output=True, text=True)
    return made.stderr.strip() or "unshare failed" if made.returncode else None


@contextmanager
def cluster(*, cpus: int) -> Iterator[None]:
    """A local Ray with Serve's proxies, which ends with the block.

    Args:
        cpus: Those that Ray gives to replicas.
    """
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions, gRPCOptions

    with _head(cpus):
        ray.init(address=f"127.0.0.1:{_RAY_PORT}", log_to_driver=False, configure_logging=False)
        try:
            serve.start(
                http_options=HTTPOptions(host="127.0.0.1", port=HTTP_PORT),
                grpc_options=gRPCOptions(
                    port=GRPC_PORT, grpc_servicer_functions=["deploy.ray.app.add_services"]
                ),
            )
            yield
        finally:
            serve.shutdown()
            ray.shutdown()


@contextmanager
def _head(cpus: int) -> Iterator[None]:
    """The processes of Ray itself; they are started again where a busy machine took too long for them."""
    os.environ.update(_ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="corolla-ray-") as folder:
        log = Path(folder) / "ray.log"
        process = _started(log, cpus)
        try:
            yield
        finally:
            process.terminate()
            process.wait(STOP_S)


def _started(log: Path, cpus: int) -> "subprocess.Popen[bytes]":
    chosen = {"port": _RAY_PORT, "num-cpus": cpus, "node-ip-address": "127.0.0.1"}
    chosen |= {"object-store-memory": 128 * 2**20}
    chosen |= {"include-dashboard": False, "include-log-monitor": False}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--no-monitor"]
    command += [f"--{name}={value}" for name, value in chosen.items()]
    for _ in range(_TRIES):
        with log.open("w") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        while process.poll() is None:
            if _UP_AND_RUNNING in log.read_text():
                return process
            time.sleep(0.2)
    raise RuntimeError(f"Ray did not start:\n{log.read_text()[-2000:]}")


def deploy(args: Mapping[str, Any], **options: Any) -> None:
    """Deploys the application, or deploys it anew; returns when it runs.

    Args:
        args: As `deploy.ray.app.build` takes them.
        options: Of the deployment, such as `num_replicas`.
    """
    from ray import serve

    from deploy.ray.app import build, deployment

    build(args)  # refuses what is wrong
    if "request_router_config" in options:
        serve.delete(
            "corolla"
        )  # proxies keep the router that they have for as long as the application is there
    serve.run(deployment.options(**options).bind(dict(args)), name="corolla", route_prefix="/")


def targets() -> list[str]:
    """HOST:PORT of the metrics of every replica."""
    with urllib.request.urlopen(TARGETS, timeout=30) as reply:
        (group,) = json.load(reply)
    found: list[str] = group["targets"]
    return found
