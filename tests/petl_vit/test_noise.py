"""Random masks are decided by the seed alone, whatever else is drawn and however a batch is cut."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from petl_vit.noise import Noise

CPU = torch.device("cpu")


def drawn(noise: Noise, rows: int) -> list[Tensor]:
    """What a forward draws for so many rows: dropout, a mask for all rows, drop path."""
    x = torch.ones(rows, 3, 5)
    return [noise.dropout(x, 0.4), noise.kept_for_all((3, 5), 0.4), noise.path(rows, 0.4, x)]


def test_masks_are_those_of_the_seed_whatever_is_drawn_in_between() -> None:
    noise, other = Noise(CPU, 5), Noise(CPU, 5)
    expected = drawn(noise, 4) + drawn(noise, 4)
    found = drawn(other, 4)
    torch.rand(3)
    drawn(Noise(CPU, 6), 4)
    found += drawn(other, 4)
    assert all(torch.equal(one, same) for one, same in zip(expected, found, strict=True))


@pytest.mark.parametrize("cuts", [(2, 4, 6), (4, 6), (1, 2, 3, 4, 5, 6)])
def test_parts_of_a_batch_have_the_masks_of_the_whole_batch(cuts: tuple[int, ...]) -> None:
    whole, parts = Noise(CPU, 1), Noise(CPU, 1)
    for _ in range(2):  # two steps
        dropout, of_all, path = drawn(whole, 6)
        first, found = 0, []
        for stop in cuts:
            parts.part(first, stop, 6)
            found.append(drawn(parts, stop - first))
            first = stop
        assert torch.equal(torch.cat([part[0] for part in found]), dropout)
        assert all(torch.equal(part[1], of_all) for part in found)
        assert torch.equal(torch.cat([part[2] for part in found]), path)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_on_a_cpu_masks_come_from_the_seeds_mersenne_twister_whatever_the_cpu(rate: float) -> None:
    noise, words = Noise(CPU, 3), np.random.RandomState(3)
    for shape in ((7, 50, 4), (7, 1, 1)):  # an odd number: half of a pair of words is not used
        count = -(-math.prod(shape) // 2)
        high, low = words.randint(0, 2**32, size=2 * count, dtype=np.uint32).reshape(-1, 2).T
        signed = np.stack([low, high], axis=1).flatten().view(np.int32)[: math.prod(shape)]
        expected = torch.from_numpy(signed.astype(np.float64) / 2**32 + 0.5 >= rate).view(shape)
        assert torch.equal(noise.kept(shape, rate), expected)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.999])
def test_elements_are_dropped_at_the_rate(rate: float) -> None:
    count = 10**6
    dropped = count - int(Noise(CPU, 4).kept((count,), rate).sum())
    assert abs(dropped - rate * count) <= 4 * math.sqrt(rate * (1 - rate) * count)


def test_nothing_is_drawn_at_rate_0() -> None:
    noise, x = Noise(CPU, 0), torch.ones(4, 3, 5)
    assert noise.dropout(x, 0.0) is x
    assert all(torch.equal(a, b) for a, b in zip(drawn(noise, 4), drawn(Noise(CPU, 0), 4), strict=True))
