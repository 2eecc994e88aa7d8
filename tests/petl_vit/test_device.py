"""Where tensors are and how many threads work on them."""

import gc
from contextlib import suppress

import psutil
import pytest
import torch

from petl_vit.device import long_lived_zeros, one_thread


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
