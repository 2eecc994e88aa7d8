"""The server where only /tmp can be written, as another user without rights: what the container promises."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.client.blocking import Client
from tests.serving.world import World, encoded
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PREPARED = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/store
mount --bind "$STORE" /mnt/store
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -o remount,bind,ro /mnt/store
mount -o remount,bind,ro /
"""
USER = "setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"


def reason_against() -> str | None:
    """Why this machine cannot show it; None where it can."""
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return "unshare and setpriv (util-linux) are not installed"
    tried = f"{PREPARED} ! touch /x 2>/dev/null && exec {USER} {sys.executable} -c 'import corolla'"
    environment = {**os.environ, "STORE": "/var", "PYTHONPATH": str(ROOT)}
    command = ["unshare", "--mount", "sh", "-c", tried]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    return (
        None if done.returncode == 0 else f"mounts or other users are not allowed here: {done.stderr[-200:]}"
    )


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a server that may write to /tmp alone."""
    if (reason := reason_against()) is not None:
        pytest.skip(reason)
    world, log = World.make(tmp_path / "store"), tmp_path / "log"
    for file in (world.folder, *world.folder.rglob("*")):
        file.chmod(0o755 if file.is_dir() else 0o644)
    serve = "-m corolla serve --store /mnt/store --port 0 --metrics-port 0 --device cpu --threads 1"
    settings = f"--prediction-key-file /tmp/prediction.key --backbone {world.backbone.digest}"
    command = f"{PREPARED} exec {USER} {sys.executable} {serve} {settings}"
    environment = {**os.environ, "STORE": str(world.folder), "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", command], env=environment, cwd=ROOT, stdout=out, stderr=out
        )

    def said() -> "re.Match[str] | None":
        assert process.poll() is None, log.read_text()
        return re.search(r"gRPC (\S+), metrics", log.read_text())

    try:
        until(lambda: said() is not None)
        found = said()
        assert found is not None
        yield found[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()
    assert "Read-only" not in log.read_text()


@pytest.mark.slow
def test_a_server_needs_no_rights_and_writes_to_tmp_alone(address: str) -> None:
    with Client(address, timeout_s=300) as client:
        reply = client.classify([encoded(0)], route="lora", task="shapes")

    assert reply.results[0].prediction_id
