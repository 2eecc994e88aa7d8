"""The state of an unfinished run on this machine, so that a killed run goes on where it stopped.

One file per run in the runs folder, written whole or not at all after every epoch and removed when the
adapter is registered. It never travels: only tensors and numbers are read back (`weights_only`).
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where the state of one run is kept."""

    path: Path

    def save(self, state: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=self.path.parent, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        Path(part).replace(self.path)

    def load(self) -> dict[str, Any] | None:
        """The last state, or None where there is none that can be read."""
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, ValueError, KeyError):
            return None
        return state if isinstance(state, dict) else None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
