"""TorchServe with one archive and one worker for each merged model, on loopback, without tokens."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.peers_served.models import Models
from benchmarks.processes import free_port

ROWS_OF_A_MODEL = 4
"""32 requests in flight over eight models."""


def configure(models: Models, folder: Path) -> tuple[list[str], int]:
    """Writes archives and configuration; the command that serves them, and its port."""
    store = folder / "archives"
    store.mkdir()
    for number in range(models.count):
        _archive(f"copy-{number}", models, store)
    port = free_port()
    config = folder / "config.properties"
    config.write_text(_properties(models, store, port))
    launch = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs"]
    return [*launch, "--ts-config", str(config), "--disable-token-auth"], port


def _archive(name: str, models: Models, store: Path) -> None:
    """The weights stay where they are: an archive of its own copy would only take disk."""
    place = store / "folder.txt"
    place.write_text(str(models.folder))
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", name, "--version", "1"]
    command += ["--handler", str(Path(__file__).with_name("torchserve_handler.py"))]
    command += ["--extra-files", str(place), "--export-path", str(store), "--archive-format", "default"]
    subprocess.run(command, check=True, capture_output=True)


def _properties(models: Models, store: Path, port: int) -> str:
    served = {
        f"copy-{number}": {
            "1": {
                "defaultVersion": True,
                "marName": f"copy-{number}.mar",
                "minWorkers": 1,
                "maxWorkers": 1,
                "batchSize": ROWS_OF_A_MODEL,
                "maxBatchDelay": 50,
                "responseTimeout": 600,
            }
        }
        for number in range(models.count)
    }
    values = {
        "inference_address": f"http://127.0.0.1:{port}",
        "management_address": f"http://127.0.0.1:{free_port()}",
        "metrics_address": f"http://127.0.0.1:{free_port()}",
        "grpc_inference_port": free_port(),
        "grpc_management_port": free_port(),
        "model_store": store,
        "load_models": "all",
        "disable_token_authorization": "true",
        "disable_system_metrics": "true",
        "models": json.dumps(served),
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())
