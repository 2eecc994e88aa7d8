"""Writes the Python code of our `.proto` files under `protos/` beside them.

`python -m protos.generate` from the repository root writes in place; a test generates elsewhere and
compares. The paths protoc sees start at the root, so the generated imports are right as they are.
"""

import sys
from importlib.resources import files
from pathlib import Path

from google.rpc import status_pb2
from grpc_tools import protoc

from petl_vit.errors import InvalidInput

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")


def sources() -> list[str]:
    """The paths of our `.proto` files, in order; those of Google are there for compilers without them."""
    every = (ROOT / "protos").rglob("*.proto")
    return sorted(str(path) for path in every if not path.is_relative_to(ROOT / "protos" / "google"))


def generate(target: Path = ROOT) -> None:
    """Writes messages, services and their type stubs under `target`.

    Raises:
        InvalidInput: A `.proto` does not compile; protoc has printed why.
    """
    _protoc(
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=readable_stubs,quiet:{target}",
        f"--mypy_grpc_out=readable_stubs,quiet:{target}",
    )


def describe(target: Path) -> None:
    """Writes the descriptor set with its comments, which the protocol page is made from, to `target`."""
    _protoc(f"--descriptor_set_out={target}", "--include_source_info")


def _protoc(*outputs: str) -> None:
    includes = [ROOT, files("grpc_tools") / "_proto", _googleapis()]
    # The plug-ins of the environment that runs this, whatever PATH says.
    plugins = [f"--plugin={name}={Path(sys.executable).parent / name}" for name in PLUGINS]
    arguments = ["protoc", *(f"-I{path}" for path in includes), *plugins, *outputs, *sources()]
    if protoc.main(arguments) != 0:
        raise InvalidInput("protoc refused it", field="protos", remedy="see its message above")


def _googleapis() -> Path:
    """The folder under which googleapis-common-protos keeps `google/rpc/status.proto`."""
    return Path(status_pb2.__file__).parents[2]


if __name__ == "__main__":
    generate()
