"""What every served peer gets: a folder of merged models and how to prepare images for them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from benchmarks.peers_inside import copies
from petl_vit.image_input import Preprocess
from petl_vit.preprocess import preprocess


class Models(BaseModel):
    """The models of a folder, numbered from 0; the record itself lies there as `models.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    architecture: str
    image_size: int
    count: int
    preprocess: Preprocess

    @classmethod
    def write(
        cls, folder: Path, models: Sequence[nn.Module], *, architecture: str, preprocess: Preprocess
    ) -> Self:
        for number, model in enumerate(models):
            copies.save(model, folder / f"{number}.safetensors")
        made = cls(
            folder=folder,
            architecture=architecture,
            image_size=preprocess.image_size,
            count=len(models),
            preprocess=preprocess,
        )
        (folder / "models.json").write_text(made.model_dump_json())
        return made

    @classmethod
    def at(cls, folder: Path) -> Self:
        return cls.model_validate(json.loads((folder / "models.json").read_text()))

    def read(self, number: int) -> nn.Module:
        return copies.read(self.folder / f"{number}.safetensors", self.architecture, self.image_size)

    def pixels(self, jpegs: Sequence[bytes]) -> Tensor:
        """[B, 3, S, S], by the code that our own server uses."""
        return torch.stack([preprocess(jpeg, self.preprocess) for jpeg in jpegs])
