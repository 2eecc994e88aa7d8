"""LitServe with the merged models in one worker: batches of up to 32 requests, split by model.

python -m benchmarks.peers_served.litserve_app FOLDER PORT
"""

import base64
import sys
from pathlib import Path
from typing import Any

import litserve

from benchmarks.peers_inside.copies import Copies
from benchmarks.peers_served.models import Models


class App(litserve.LitAPI):
    """Takes `{"model": 3, "image": base64 of a JPEG}`, answers `{"logits": [...]}`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(max_batch_size=32, batch_timeout=0.05)
        self._folder = folder

    def setup(self, device: str) -> None:
        self._found = Models.at(self._folder)
        self._copies = Copies([self._found.read(number) for number in range(self._found.count)])

    def decode_request(self, request: dict[str, Any]) -> tuple[int, bytes]:
        return int(request["model"]), base64.b64decode(request["image"])

    def batch(self, inputs: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        return inputs

    def predict(self, inputs: list[tuple[int, bytes]]) -> list[list[float]]:
        images = self._found.pixels([jpeg for _, jpeg in inputs])
        rows: list[list[float]] = self._copies.logits(images, [model for model, _ in inputs]).tolist()
        return rows

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        return output

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        return {"logits": output}


def main(folder: str, port: str) -> None:
    server = litserve.LitServer(App(Path(folder)), accelerator="cpu", timeout=600)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
