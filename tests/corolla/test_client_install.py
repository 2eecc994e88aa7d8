"""A machine with one extra alone: `client` asks and steers servers, `monitor` watches them."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

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


def brought_by(extra: str) -> set[str]:
    """The packages of an extra, those of the extras in it too."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names: set[str] = set()
    for line in extras[extra]:
        nested = re.fullmatch(r"corolla\[(\w+)\]", line)
        names |= brought_by(nested[1]) if nested else {re.split(r"[>=<\[]", line)[0]}
    return names


def modules_of_others_than(extra: str) -> list[str]:
    """The modules that `serve` and `train` bring, and an extra does not."""
    others = (brought_by("serve") | brought_by("train")) - brought_by(extra)
    return sorted(MODULES.get(name, name.replace("-", "_")) for name in others)


@pytest.mark.parametrize(("extra", "lines"), [("client", LINES), ("monitor", ("monitor --help",))])
def test_an_extra_is_enough_for_its_commands(extra: str, lines: Sequence[str], tmp_path: Path) -> None:
    blocked = modules_of_others_than(extra)
    assert {"torch", "pydantic_settings", "PIL"} <= {*blocked}

    typed = [line if "--help" in line else f"{line} --store {tmp_path}" for line in lines]
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps([blocked, typed]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
