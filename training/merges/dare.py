"""DARE: drop changes at random and rescale the rest (arXiv 2311.03099)."""

import hashlib

import torch
from torch import Tensor

from training.merges.changes import Changes, Named


class Dropped:
    """A member's changes, each entry dropped with probability p, the others times 1 / (1 - p).

    What is dropped depends on the seed, the member's digest and the parameter's name alone.
    """

    def __init__(self, member: Changes, rate: float, seed: int) -> None:
        self._member, self._rate, self._seed = member, rate, seed

    @property
    def digest(self) -> str:
        return self._member.digest

    @property
    def places(self) -> tuple[str, ...]:
        return self._member.places

    def at(self, place: str) -> Named:
        return {name: self._dropped(name, change) for name, change in self._member.at(place).items()}

    def _dropped(self, name: str, change: Tensor) -> Tensor:
        text = f"{self._seed} {self.digest} {name}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
        drawn = torch.rand(change.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return change * (drawn >= self._rate) / (1 - self._rate)
