"""What every test may rely on: no network, no store of the person who runs them, no choice by the machine."""

import gc
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Read when torch is imported, so set before any test module is.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Under nohup, and in the background of a script, they are ignored, also in processes that tests start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
# Read when a kernel is defined: without a GPU, kernels run in Triton's interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Time is no property of ours: any step may take long on a busy machine.
settings.register_profile("corolla", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("corolla")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sums-by-rows", action="store_true", help="sum products in orders that rows decide")


@pytest.fixture(scope="session")
def _data_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders that are not there yet: few tests write into theirs."""
    parent = tmp_path_factory.mktemp("data")
    return (parent / str(number) for number in count())


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, _data_folders: Iterator[Path]) -> None:
    """Takes the settings of whoever runs the tests away, and gives each test a data folder of its own."""
    for name in os.environ:
        if name.startswith("COROLLA_"):
            monkeypatch.delenv(name)
    folder = next(_data_folders)
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    monkeypatch.setenv("COROLLA_LOGITS", str(folder / "logits"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


_LONG = ("slow", "torchserve", "languages", "browser", "benchmarks")
_ASKED = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


@pytest.fixture(scope="session", autouse=True)
def _hardware() -> Iterator[dict[str, Any]]:
    """Fails what would compute in bf16 on one CPU and in fp32 on another: a test says which it is about."""
    torch = sys.modules.get("torch")
    there = {} if torch is None else {name: vars(torch.cpu).get(name) for name in _ASKED}

    def asked() -> bool:
        pytest.fail('the machine would choose the precision: name one, or mark the test "machine"')

    with pytest.MonkeyPatch.context() as patch:
        for name in there:
            patch.setattr(f"torch.cpu.{name}", asked, raising=False)
        yield there


@pytest.fixture(autouse=True)
def _choice_by_the_machine(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _hardware: dict[str, Any]
) -> None:
    """Lets tests marked `machine` see what there is."""
    if request.node.get_closest_marker("machine"):
        for name, there in _hardware.items():
            monkeypatch.setattr(f"torch.cpu.{name}", there)


@pytest.fixture(scope="session", autouse=True)
def _sums(pytestconfig: pytest.Config) -> object:
    """With `--sums-by-rows`, products are summed in orders that rows decide, for as long as this is kept."""
    if not pytestconfig.getoption("--sums-by-rows"):
        return None
    from tests import sums

    return sums.install()


def pytest_collection_finish() -> None:
    """Takes what is imported, which stays, out of what the collector looks through."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """So that libraries find nothing left at the end."""
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where there is none; and puts files that take long first.

    Files are given to processes in this order (`--no-loadscope-reorder`), and a long one that came last would
    leave all others waiting for it.
    """
    sizes = Counter(item.path for item in items)
    long = {item.path for item in items if any(map(item.get_closest_marker, _LONG))}
    items.sort(key=lambda item: (item.path not in long, -sizes[item.path], str(item.path)))
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
