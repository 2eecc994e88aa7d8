"""Small sets of labelled images in folders, zips and npz files."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from petl_vit.errors import CorollaError
from petl_vit.image_input import Preprocess
from training.data.records import Dataset
from training.data.sources import load_dataset

SMALL = Preprocess(image_size=14, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
FLOWERS = {"rose/1.png": 10, "rose/2.png": 20, "tulip/1.png": 30, "tulip/deep/er/2.PNG": 40}


def image(value: int, kind: str = "PNG", width: int = 6) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 5), (value, value, value)).save(buffer, kind)
    return buffer.getvalue()


def folder(root: Path, files: Mapping[str, int | bytes]) -> str:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else image(content))
    return str(root)


def zipped(path: Path, files: Mapping[str, int | bytes], prefix: str = "") -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content if isinstance(content, bytes) else image(content))
    return str(path)


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def pixels(n: int = 4, *shape: int) -> Any:
    return np.arange(n, dtype=np.uint8).reshape(n, *[1] * len(shape or (5, 6))) * np.ones(
        (n, *(shape or (5, 6))), dtype=np.uint8
    )


def values(dataset: Dataset) -> list[int]:
    return [int(dataset.images[index][0, 0, 0]) for index in range(len(dataset))]


def refusal(source: str) -> CorollaError:
    with pytest.raises(CorollaError) as caught:
        load_dataset(source)
    assert caught.value.field == "data"
    assert caught.value.remedy
    return caught.value
