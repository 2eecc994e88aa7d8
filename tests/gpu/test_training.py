"""Training on a CUDA device: in float32 as on a CPU, and in bfloat16 to adapters in float32."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model_store.resolution.loading import Loader
from model_store.store import Store
from petl_vit import methods
from petl_vit.heads import LinearHead
from petl_vit.precision import Precision
from tests.gpu import DEVICE, exact
from tests.training.conftest import SPEC, imported, recipe
from training.data.dataset import subset
from training.data.loading import Resized
from training.data.sources import load_dataset
from training.run.job import Job, run
from training.run.trainer import Trainer

pytestmark = pytest.mark.gpu

METHODS = ("lora", "convpass", "vpt_deep", "full")


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    with exact():
        yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def losses(store: Store, name: str, device: torch.device) -> list[float]:
    """Of every step of one epoch, without dropout, whose random numbers are the device's own."""
    vit = Loader(store, store.backbones.list()[0], device=device).vit(SPEC.image_size)
    images = Resized(subset(load_dataset("digits"), 60, 0), SPEC, vit)
    head = LinearHead.init(10, vit.arch.width, torch.Generator().manual_seed(0))
    method = methods.get(name)
    config = {"dropout": 0.0} if "dropout" in method.model_fields else {}
    chosen = recipe(name, config=config, epochs=1, drop_path=0.0)
    found: list[float] = []
    Trainer(vit, method.configure(config), head, chosen).run(images, progress=found.append)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_an_epoch_in_fp32_loses_what_it_loses_on_a_cpu(store: Store, name: str) -> None:
    imported(store)

    expected = losses(store, name, torch.device("cpu"))

    assert len(expected) == 4
    assert losses(store, name, DEVICE) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_in_bf16_the_loss_falls_and_what_is_registered_is_in_float32(
    store: Store, tmp_path: Path, name: str
) -> None:
    chosen = recipe(name, epochs=6, drop_path=0.0, head_init="random", learning_rate=3e-3, precision="bf16")
    job = Job(
        backbone=imported(store).name,
        task="digits",
        name="trained",
        data="digits",
        limit=60,
        image_size=SPEC.image_size,
        recipe=chosen,
        runs=tmp_path / "runs",
        device=DEVICE.type,
        measure_precision=Precision.FP32,
    )

    manifest = run(store, job).manifest

    found = manifest.training["losses"]
    assert found[-1] < 0.95 * found[0]
    assert {tensor.dtype for tensor in store.adapters.load(manifest).values()} == {torch.float32}
