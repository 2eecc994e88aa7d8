"""Where tensors are and how many threads work on them."""

import gc
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest
import torch

from petl_vit import device
from petl_vit.cpus import Cpus
from petl_vit.device import Threads, long_lived_zeros, one_thread, use_threads


@pytest.mark.parametrize("elements", [0, 5, 1000, 300_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_lived_zeros_are_zeros_and_can_be_written(elements: int, dtype: torch.dtype) -> None:
    found = long_lived_zeros(elements, torch.ones(1, dtype=dtype))
    assert found.shape == (elements,)
    assert found.dtype == dtype
    assert not found.any()
    found.fill_(2)
    assert (found == 2).all()


def test_long_lived_memory_returns_to_the_system_with_its_tensor() -> None:
    process = psutil.Process()
    held = [long_lived_zeros(2**20, torch.ones(1)).fill_(1) for _ in range(20)]
    full = process.memory_info().rss
    held.clear()
    gc.collect()
    assert full - process.memory_info().rss > 19 * 4 * 2**20


def test_little_work_runs_on_one_thread_and_the_others_come_back() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread(True):
            assert torch.get_num_threads() == 1
            with one_thread(True):
                assert torch.get_num_threads() == 1
        with one_thread(False):
            assert torch.get_num_threads() == 2
        with suppress(ZeroDivisionError), one_thread(True):
            _ = 1 / 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def default_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Those that PyTorch chose itself: 2."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("chosen", "usable", "threads", "text"),
    [
        (None, 1, 1, "the quota"),
        (None, 2, 2, "the quota"),
        (None, 4, 2, "PyTorch's default; the quota"),
        (3, 1, 3, "as set"),
    ],
)
@pytest.mark.usefixtures("default_threads")
def test_operations_use_no_more_threads_than_there_are_usable_cpus_unless_the_user_says_so(
    monkeypatch: pytest.MonkeyPatch, chosen: int | None, usable: int, threads: int, text: str
) -> None:
    monkeypatch.setattr(device, "usable_cpus", lambda: Cpus(count=usable, reason="the quota"))
    assert use_threads(chosen) == Threads(count=threads, reason=text)
    assert torch.get_num_threads() == threads


def test_the_variables_of_openmp_are_the_users_choice(
    default_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "usable_cpus", lambda: Cpus(count=1, reason="the quota"))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert use_threads() == Threads(count=default_threads, reason="OMP_NUM_THREADS")
    assert torch.get_num_threads() == default_threads
