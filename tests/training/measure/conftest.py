"""A store with a few adapters, trained once for all tests of measurements; no test changes what is in it."""

from dataclasses import dataclass

import pytest
import torch

from model_store.format.records import Draft
from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedRoute, resolve
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit.batch import Batch, Row
from petl_vit.precision import Precision
from tests.training.conftest import imported, recipe
from training.run.job import Job, run


@pytest.fixture(scope="session")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    """Of the task digits: `lora`, `vpt_deep`, and `lora-1` and `lora-2`, which are other seeds of lora."""
    folder = tmp_path_factory.mktemp("evaluation")
    store = Store.open(str(folder / "store"))
    backbone = imported(store)
    for method in ("lora", "vpt_deep"):
        job = Job(
            backbone=backbone.digest,
            task="digits",
            name=method,
            data="digits",
            limit=60,
            recipe=recipe(method, epochs=1, learning_rate=1e-2),
            runs=folder / "runs",
            measure_precision=Precision.FP32,
        )
        run(store, job)
    for seed in (1, 2):
        _publish_another_seed(store, seed)
    return Loader(store, store.backbones.get(backbone.digest))


def _publish_another_seed(store: Store, seed: int) -> None:
    """As if it had been trained: tensors of their own for the same recipe."""
    lora = store.adapters.manifest("digits", "lora", 1)
    fields = {name: getattr(lora, name) for name in Draft.model_fields}
    fields |= {"name": f"lora-{seed}", "training": lora.training | {"seed": seed}}
    noise = torch.Generator().manual_seed(seed)
    tensors = {
        name: tensor + tensor.std() * torch.randn(tensor.shape, generator=noise)
        for name, tensor in store.adapters.load(lora).items()
    }
    store.adapters.publish(Draft.of(**fields), tensors)


@dataclass(frozen=True)
class Resolving:
    """Routes of a loader's store, by their text."""

    loader: Loader

    def __call__(self, text: str, task: str = "digits") -> ResolvedRoute:
        digest = self.loader.record.digest
        return resolve(parse_route(text), task=task, store=self.loader.store, backbone_digest=digest)


@pytest.fixture(scope="session")
def resolving(loader: Loader) -> Resolving:
    return Resolving(loader)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """The rows of every forward."""
    found, logits_of = list[Row](), Batch.logits

    def counted(batch: Batch, images: torch.Tensor, some: list[Row]) -> list[torch.Tensor]:
        found.extend(some)
        return logits_of(batch, images, some)

    monkeypatch.setattr(Batch, "logits", counted)
    return found
