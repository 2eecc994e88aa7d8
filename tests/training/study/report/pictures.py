"""Small images with votes, for thumbnails."""

import numpy as np
import torch

from training.data.records import Dataset
from training.study.report.contents import Gallery
from training.study.report.disputed import Voted, most_disputed

CLASSES = ("cat", "dog", "cow")
VOTES = [[0, 0, 0], [0, 1, 1], [2, 1, 0], [1, 1, 1]]
"""Of three models on four images, whose entropy is 0, 0.918, 1.585 and 0 bits."""


class Squares:
    """Images of one colour each, 40 x 30 pixels."""

    def __len__(self) -> int:
        return len(VOTES)

    def __getitem__(self, index: int, /) -> torch.Tensor:
        return torch.full((3, 30, 40), 60 * index, dtype=torch.uint8)

    def sized(self, index: int, spec: object) -> torch.Tensor:
        raise NotImplementedError


def voted(votes: list[list[int]] = VOTES, on: str = "photo") -> Voted:
    dataset = Dataset(
        name=on,
        classes=CLASSES,
        images=Squares(),
        labels=torch.tensor([0, 1, 2, 1]),
        digest="d" * 64,
        fingerprints=tuple(f"{number:016x}" for number in range(len(VOTES))),
    )
    return Voted(on=on, dataset=dataset, votes=np.array(votes))


def gallery() -> Gallery:
    made = most_disputed([voted()], ["lora:1", "ssf:1", "bitfit:1"], CLASSES)
    assert isinstance(made, Gallery)
    return made
