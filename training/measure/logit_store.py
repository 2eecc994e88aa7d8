"""Logits on this machine's disk, by what they are of: nothing is computed twice.

A file holds what one model says of some images, at most `training.measure.logits.PART` of them. Files that
were not used for the longest time are removed when all take more than `most_bytes`.

Shapes: b images of a file, C classes.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_dir
from pydantic import JsonValue
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from model_store.format.canonical import canonical_json
from model_store.place.whole_file import write_whole

MOST_BYTES = 4 * 2**30
_FORMAT = 1  # another number makes what is stored unknown: count it up when forwards or shifts change results


class LogitStore:
    """A folder of logits; safe to share between processes.

    Args:
        folder: Made when something is stored.
        most_bytes: What its files may take.
        again: Whether to find nothing, so that everything is computed and stored again.
    """

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES, again: bool = False) -> None:
        self.folder, self._most_bytes, self._again = folder, most_bytes, again
        self.problem = ""
        """Why something could not be stored; empty where all was."""

    @staticmethod
    def key(of: dict[str, JsonValue], fingerprints: Sequence[str]) -> str:
        """The name of the logits of a model on images of these fingerprints, in that order.

        Args:
            of: What else decides them.
        """
        images = hashlib.sha256("\n".join(fingerprints).encode()).hexdigest()
        return hashlib.sha256(canonical_json({"format": _FORMAT, "images": images, **of})).hexdigest()

    def load(self, key: str, images: int) -> NDArray[np.float32] | None:
        """[b, C]; None where there is nothing, or what is there is damaged or of another number of images."""
        path = self._path(key)
        if self._again or not path.exists():
            return None
        try:
            logits: NDArray[np.float32] = load_file(path)["logits"]
        except (OSError, SafetensorError, KeyError):
            return None
        with suppress(OSError):
            os.utime(path)
        sound = logits.dtype == np.float32 and logits.ndim == 2 and len(logits) == images
        return logits if sound and bool(np.isfinite(logits).all()) else None

    def save(self, key: str, logits: NDArray[np.float32]) -> None:
        """Keeps [b, C]; where the disk does not take it, `problem` says so."""
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_whole(path) as draft:
                save_file({"logits": np.ascontiguousarray(logits)}, draft)
        except (OSError, SafetensorError) as error:
            self.problem = f"logits cannot be stored in {self.folder} ({error})"

    def trim(self) -> None:
        """Removes the files that were not used for the longest time, until the others fit."""
        files = []
        for path in self.folder.glob("*/*.safetensors"):
            with suppress(OSError):
                found = path.stat()
                files.append((found.st_mtime, found.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._most_bytes:
                return
            with suppress(OSError):
                path.unlink()
            total -= size

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def default_folder() -> Path:
    """COROLLA_LOGITS, else a folder in the user's cache."""
    return Path(
        os.environ.get("COROLLA_LOGITS") or Path(user_cache_dir("corolla", appauthor=False), "logits")
    )
