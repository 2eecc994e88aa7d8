"""Clients that other compilers make of protos/, by the commands of protos/README.md."""

import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from google.rpc import status_pb2

from tests.serving.world import Running, encoded

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "protos" / "README.md").read_text()
NODE = ("@grpc/grpc-js@1.12.6", "@grpc/proto-loader@0.7.13")
PYTHON = (
    "grpcio==1.51.3",
    "grpcio-tools==1.51.3",
    "protobuf==4.21.12",
    "googleapis-common-protos==1.56.4",
    "setuptools==65.5.1",
)
"""Compilers and libraries that are older than all that this environment has."""
ASK = """
import grpc
from corolla.v1 import classifier_pb2 as pb, classifier_pb2_grpc
import inference.grpc_service_pb2, corolla.v1.admin_pb2
request = pb.ClassifyRequest(task="shapes", route="lora", images=[pb.Image(data=open(image, "rb").read())])
with grpc.insecure_channel(server) as channel:
    print(classifier_pb2_grpc.ClassifierStub(channel).Classify(request, timeout=60).route)
"""


def installed(folder: Path, *command: str, wanted: tuple[str, ...]) -> Path:
    """A folder that a package manager has filled once; the test is skipped where it cannot."""
    done = folder / "installed"
    if not done.is_file() or done.read_text() != " ".join(wanted):
        shutil.rmtree(folder)
        folder.mkdir()
        try:
            ran = subprocess.run([*command, *wanted], cwd=folder, capture_output=True, text=True, timeout=300)
        except (OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"{command[0]} cannot install {', '.join(wanted)}: {error}")
        if ran.returncode != 0:
            pytest.skip(f"{command[0]} cannot install {', '.join(wanted)}: {ran.stderr.strip()[-300:]}")
        done.write_text(" ".join(wanted))
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(0))
    return path


@pytest.mark.languages
@pytest.mark.skipif(shutil.which("node") is None or shutil.which("npm") is None, reason="needs Node and npm")
def test_a_client_in_node_needs_protos_and_two_packages(
    running: Running, image: Path, pytestconfig: pytest.Config
) -> None:
    assert "$ npm install @grpc/grpc-js @grpc/proto-loader\n" in PAGE
    assert "$ node examples/classify.js protos 127.0.0.1:50051 digits lora a.png\n" in PAGE
    install = ("npm", "install", "--no-audit", "--no-fund", "--silent")
    folder = installed(pytestconfig.cache.mkdir("node"), *install, wanted=NODE)
    words = ["protos", running.address, "shapes", "lora", str(image)]
    ran = subprocess.run(
        ["node", "examples/classify.js", *words],
        cwd=ROOT,
        env=os.environ | {"NODE_PATH": str(folder / "node_modules")},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(r"(circle|square|star) 0\.\d{3} by lora:2\n", ran.stdout)


@pytest.mark.languages
def test_an_older_grpcio_tools_compiles_protos_and_its_code_calls_a_server(
    running: Running, image: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    (documented,) = re.findall(r"^\$ python -m grpc_tools\.protoc (.*)$", PAGE, re.MULTILINE)
    assert documented.startswith("-I protos --python_out=. --grpc_python_out=. corolla/v1/classifier.proto")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
    folder = installed(
        pytestconfig.cache.mkdir("grpcio-tools"), *pip, "--only-binary=:all:", "--target=.", wanted=PYTHON
    )
    shutil.copytree(
        ROOT / "protos", tmp_path / "protos", ignore=shutil.ignore_patterns("*.py*", "__pycache__")
    )
    # Without what this environment has: its protobuf is newer, and its corolla is another one.
    old = [sys.executable, "-I", "-S", "-W", "ignore", "-c"]
    path = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(folder)!r}]\n"
    compiling = f"{path}import runpy; sys.argv[1:] = {documented.split()!r}\n"
    for code in (
        f"{compiling}runpy.run_module('grpc_tools.protoc', run_name='__main__')",
        f"{path}server, image = {running.address!r}, {str(image)!r}\n{ASK}",
    ):
        ran = subprocess.run([*old, code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stderr

    assert ran.stdout == "lora:2\n"


def test_the_folder_has_what_its_files_import() -> None:
    for file in (ROOT / "protos").rglob("*.proto"):
        for name in re.findall(r'^import "([^"]+)";', file.read_text(), re.MULTILINE):
            assert name.startswith("google/protobuf/") or (ROOT / "protos" / name).is_file(), name


def test_the_file_of_google_says_what_google_says() -> None:
    ours = (ROOT / "protos" / "google" / "rpc" / "status.proto").read_text()
    theirs = Path(str(files(status_pb2.__name__.rpartition(".")[0]) / "status.proto")).read_text()

    assert code_of(ours) == code_of(theirs)


def code_of(text: str) -> list[str]:
    """A file's lines without its comments."""
    return [line for line in text.splitlines() if line.strip() and not line.strip().startswith("//")]
