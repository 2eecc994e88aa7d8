"""The Python of the pages runs as it stands there.

The blocks of a page are one program, from top to bottom. It runs in a folder with the files that the pages
name, beside a server over a store with a tiny random backbone. What is replaced is the server's address,
because a test cannot have port 50051; what is given is one argument, the path of an image.
"""

import os
import re
import runpy
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from corolla import command
from tests.serving.world import CONFIG, Running, World, backbone_tensors, encoded

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
WITH_PYTHON = [page for page in PAGES if BLOCK.search(page.read_text())]
ELSEWHERE = {
    "CONTRIBUTING.md": "tests/docs/test_contributing.py",
    "methods.md": "tests/docs/test_contributing.py",
    "store-format.md": "tests/model_store/format/test_digest.py",
    "torchserve.md": "tests/integration/test_torchserve.py",
}
"""Pages whose programs another test runs, or the like of them."""
ALONE = {"oip.md"}
"""Pages whose programs need a process of their own: Triton's client has our protocol under the same names."""
SLOW = {"README.md", "interchange.md"}
ADDRESS = "127.0.0.1:50051"
FILES = {
    "interchange.md": (
        ["adapters", "fold", "0.5*lora + 0.5*repadapter", "--task", "digits", "--out", "both.safetensors"],
        ["adapters", "export", "lora", "--task", "digits", "--format", "peft", "--out", "lora-peft"],
    ),
    "onnx.md": (["export", "onnx", "--bank", "--task", "digits", "--out", "digits.onnx"],),
}
"""The commands of a page that write the files which its program reads."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A store with the task and the adapters that the pages name."""
    world = World(tmp_path_factory.mktemp("pages") / "store")
    record = world.store.backbones.put("tiny", CONFIG, backbone_tensors(0), "random")
    world.put_task("digits", tuple("0123456789"), record)
    for seed, method in enumerate(("lora", "bitfit", "ssf", "repadapter")):
        world.publish("digits", method, seed=seed)
    return world


@pytest.fixture(scope="module")
def server(digits: World) -> Iterator[Running]:
    with Running(digits.settings()) as server:
        yield server


@pytest.fixture
def folder(digits: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the images and the store that the pages name."""
    images = tmp_path / ".demo" / "images"
    images.mkdir(parents=True)
    (images.parent / "store").symlink_to(digits.folder)
    for seed, name in enumerate(("digits-0-is-3.png", "mnist-0-is-0.png")):
        (images / name).write_bytes(encoded(seed))
    for name in ("cat.jpg", "digit.png"):
        (tmp_path / name).write_bytes(encoded(2))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_the_python_of_a_page_is_valid(page: Path) -> None:
    for code in BLOCK.findall(page.read_text()):
        compile(code, page.name, "exec")


@pytest.mark.machine  # programs leave the choice to it
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page.name in SLOW else [], id=page.name)
        for page in WITH_PYTHON
        if page.name not in ELSEWHERE
    ],
)
def test_the_python_of_a_page_runs(
    page: Path,
    server: Running,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COROLLA_STORE", str(folder / ".demo" / "store"))
    for arguments in FILES.get(page.name, ()):
        assert command.run(arguments) == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(sys, "argv", ["program.py", "digit.png"])
    program = folder / "program.py"
    program.write_text("\n".join(BLOCK.findall(page.read_text())).replace(ADDRESS, server.address))

    if page.name in ALONE:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, str(program), "digit.png"], env=environment, check=True)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of libraries are not ours to mend
            runpy.run_path(str(program), run_name="__main__")

    if page.name == "README.md":
        assert re.search(r"^lora:1 0\.\d+$", capsys.readouterr().out, re.MULTILINE)
