"""TorchServe's handler of one merged model: a request's body is a JPEG, the answer its logits.

TorchServe imports this file by path in a worker process of each model.
"""

import re
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers_served.models import Models


class Handler:
    """Loads the model whose number is in the model's name, `copy-3`."""

    def initialize(self, context: Any) -> None:
        number = re.fullmatch(r"copy-(\d+)", context.manifest["model"]["modelName"])
        assert number is not None
        found = (Path(context.system_properties["model_dir"]) / "folder.txt").read_text()
        self._models = Models.at(Path(found))
        self._model = self._models.read(int(number[1]))

    @torch.inference_mode()
    def handle(self, data: list[dict[str, Any]], context: Any) -> list[list[float]]:
        bodies = [bytes(row.get("data") or row.get("body") or b"") for row in data]
        rows: list[list[float]] = self._model(self._models.pixels(bodies)).tolist()
        return rows
