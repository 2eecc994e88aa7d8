"""A machine with the extra `client` alone: what asks and steers servers runs without the other extras."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from corolla import command

ROOT = Path(command.__file__).parent.parent
MODULES = {"grpcio-reflection": "grpc_reflection", "pillow": "PIL", "scikit-learn": "sklearn"}
LINES = (
    "classify --help",
    "feedback --help",
    "domains add --help",
    "adapters resident --help",
    "adapters alias --help",
    "adapters list",
    "routes put --help",
    "routes history",
    "routes list",
)
CHILD = """
import json, sys
blocked, lines = json.load(sys.stdin)
sys.modules.update(dict.fromkeys(blocked))
from corolla import command
sys.exit(any([command.run(line.split()) for line in lines]))
"""


def modules_of_other_extras() -> list[str]:
    """The modules that `serve` and `train` bring, and `client` does not."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    client, serve, train = (
        {re.split(r"[>=<\[]", line)[0] for line in extras[name]} for name in ("client", "serve", "train")
    )
    others = (serve | train) - client - {"corolla"}
    return sorted(MODULES.get(name, name.replace("-", "_")) for name in others)


def test_the_extra_client_is_enough_to_ask_and_steer_a_server_and_to_read_names(tmp_path: Path) -> None:
    blocked = modules_of_other_extras()
    assert {"torch", "pydantic_settings", "PIL"} <= {*blocked}

    lines = [line if "--help" in line else f"{line} --store {tmp_path}" for line in LINES]
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps([blocked, lines]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
