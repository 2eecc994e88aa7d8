"""A real backbone, small enough to train in a moment, in a real store, and real digits."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from model_store.format.records import BackboneRecord
from model_store.resolution.loading import Loader
from model_store.sources import backbones
from model_store.store import Store
from petl_vit.heads import LinearHead
from petl_vit.image_input import Preprocess
from petl_vit.vit import FrozenViT
from training.data.dataset import subset
from training.data.loading import Resized
from training.data.records import Dataset
from training.data.sources import load_dataset
from training.run import probe
from training.run.recipe import Recipe

HALF = (0.5, 0.5, 0.5)
NEAR = 1e-7
"""How far runs in float64 may differ, relative to the largest element of a tensor.

A gradient that is zero but for rounding, as that of a shift of all keys, moves its tensor by the learning
rate times that rounding over AdamW's 1e-8.
"""
SPEC = Preprocess(image_size=32, mean=HALF, std=HALF)


@cache
def weights(depth: int) -> backbones.Imported:
    request = backbones.Request(image_size=32, options={"depth": depth})
    return backbones.read("random:vit_tiny_patch16_224", request)


def imported(store: Store, depth: int = 2) -> BackboneRecord:
    found = weights(depth)
    return store.backbones.put(found.name, found.config, found.tensors, found.source)


def recipe(method: str = "lora", **values: object) -> Recipe:
    return Recipe.of(**{"method": method, "learning_rate": 1e-3, "epochs": 2, "batch_size": 16} | values)


def write_npz(path: Path, *, classes: int = 10, images: int = 60, names: list[str] | None = None) -> str:
    """The first real digits of so many classes."""
    digits = load_digits()
    kept = np.flatnonzero(digits.target < classes)[:images]
    pixels = np.rint(digits.images[kept] * (255 / 16)).astype(np.uint8)
    texts = names or [f"digit {label}" for label in range(classes)]
    np.savez(path, images=pixels, labels=digits.target[kept], classes=np.array(texts))
    return str(path)


@pytest.fixture(autouse=True)
def _own_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def backbone(store: Store) -> BackboneRecord:
    return imported(store)


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> FrozenViT:
    """What every store here holds, read once: no test changes it."""
    store = Store.open(str(tmp_path_factory.mktemp("backbone") / "store"))
    return Loader(store, imported(store)).vit(32)


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """60 digits, every class among them."""
    return subset(load_dataset("digits"), 60, 0)


@pytest.fixture
def images(dataset: Dataset, vit: FrozenViT) -> Resized:
    return Resized(dataset, SPEC, vit, augmentation="crop-flip")


@pytest.fixture(scope="session")
def exact(vit: FrozenViT) -> FrozenViT:
    """In float64, where sums in another order stay equal to many digits even after AdamW."""
    return vit.to(dtype=torch.float64)


@pytest.fixture
def exact_images(dataset: Dataset, exact: FrozenViT) -> Resized:
    return Resized(dataset, SPEC, exact, augmentation="crop-flip")


@pytest.fixture(scope="session")
def base_head(dataset: Dataset, vit: FrozenViT) -> LinearHead:
    images = Resized(dataset, SPEC, vit)
    features = probe.features(vit, (images.batch(i) for i in images.batches()), lambda n: None)
    return probe.fit(features, images.labels, 10)
