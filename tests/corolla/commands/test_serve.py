"""`corolla serve` as a process: what it imports, and what it says at its end."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from corolla import command
from serving.client.blocking import Client
from tests.serving.world import World, encoded

COMPILER = ("timm", "torchvision", "triton", "sympy", "torch._dynamo", "torch._inductor")
SERVE = f"""
import sys
from corolla import command
code = command.run(["serve", *sys.argv[1:]])
print("imported", [name for name in {COMPILER!r} if name in sys.modules])
sys.exit(code)
"""


def test_a_server_on_a_cpu_imports_no_compiler_and_ends_without_a_word(world: World, tmp_path: Path) -> None:
    flags = ["--device", "cpu", "--port", "0", "--metrics-port", "0", "--store", str(world.folder)]
    child = subprocess.Popen(
        [sys.executable, "-c", SERVE, *flags, "--prediction-key-file", str(tmp_path / "key")],
        cwd=Path(command.__file__).parent.parent,
        env={name: value for name, value in os.environ.items() if not name.startswith("COROLLA_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        ready = re.search(r"; \d+ threads? computes?, .*: gRPC (\S+), metrics", child.stdout.readline())
        assert ready is not None
        with Client(ready[1]) as client:
            assert client.classify([encoded(0)], route="best", task="shapes").results[0].top
    finally:
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate()

    assert child.returncode == 0
    assert out == "imported []\n"
    logged = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ (INFO|WARNING) ")
    assert [line for line in err.splitlines() if not logged.match(line)] == []
