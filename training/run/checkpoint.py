"""The state of an unfinished run on this machine, so that a killed run goes on where it stopped.

One file per run in the runs folder, written whole or not at all after every epoch and removed when the
adapter is registered. It never travels: only tensors and numbers are read back (`weights_only`).
"""

import pickle
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model_store.place.whole_file import remove_drafts, write_whole
from petl_vit.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The file with the state of one run."""

    path: Path

    def prepare(self) -> None:
        """Makes the folder.

        Raises:
            InvalidInput: The folder cannot be written, which is better known before an epoch than after.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
        except OSError as error:
            raise self._unwritable(error.strerror or str(error)) from error

    def save(self, state: dict[str, Any]) -> None:
        """Replaces the last state.

        Raises:
            InvalidInput: The folder cannot be written; the last state is still there.
        """
        try:
            with write_whole(self.path, mode=0o600) as draft:
                torch.save(state, draft)
        except OSError as error:
            raise self._unwritable(error.strerror or str(error)) from error
        except RuntimeError as error:  # of PyTorch, which writes files itself and names no cause
            if "inline_container" not in str(error):
                raise
            raise self._unwritable("not all of it could be written: is the disk full?") from error

    def load(self) -> dict[str, Any] | None:
        """The last state, or None where there is none that can be read."""
        try:
            with warnings.catch_warnings():  # about files of other programs
                warnings.simplefilter("ignore")
                state = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError):
            return None
        return state if isinstance(state, dict) else None

    def remove(self) -> None:
        """Forget the state, and what a killed `save` left beside it."""
        self.path.unlink(missing_ok=True)
        remove_drafts(self.path)

    def _unwritable(self, reason: str) -> InvalidInput:
        return InvalidInput(
            f"{self.path.parent} cannot be written ({reason})",
            field="runs",
            remedy="free it, or choose another folder",
        )
