"""What every test may rely on: no network, no store of the person who runs them, one thread."""

import os
from pathlib import Path

import pytest

# Read when torch is imported, so set before any test module is.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Read when a kernel is defined: without a GPU, kernels run in Triton's interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Takes the settings of whoever runs the tests away, and gives each test a data folder of its own."""
    for name in os.environ:
        if name.startswith("COROLLA_"):
            monkeypatch.delenv(name)
    data: Path = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("XDG_DATA_HOME", str(data))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where there is none."""
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
