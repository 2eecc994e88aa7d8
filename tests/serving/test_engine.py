import numpy as np
import pytest
import torch

from model_store.loading import Loader, models
from petl_vit.batch import Model
from serving.engine import Engine, Job
from tests.serving.world import METHODS, SIZE, World

OTHER_SIZE = 48


class Counted:
    """What an engine reported."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []

    def batch(self, rows: int, adapters: int, seconds: float) -> None:
        assert seconds > 0
        self.batches.append((rows, adapters))


@pytest.fixture(scope="module")
def loader(world: World) -> Loader:
    return Loader(world.store, world.backbone)


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def engine(loader: Loader, counted: Counted) -> Engine:
    made = Engine(metrics=counted)
    made.add_size(SIZE, loader.vit(SIZE))
    made.add_size(OTHER_SIZE, loader.vit(OTHER_SIZE))
    return made


def runnable(world: World, loader: Loader, text: str) -> tuple[Model, ...]:
    resolved = world.resolve(text)
    return models(resolved.members, {term.digest: loader.adapter(term) for term in resolved.terms()})


def image(seed: int, size: int = SIZE) -> torch.Tensor:
    return torch.randn(3, size, size, generator=torch.Generator().manual_seed(seed))


def test_a_job_has_one_answer_for_each_of_its_models(world: World, loader: Loader, engine: Engine) -> None:
    ensemble = tuple(model for name in METHODS for model in runnable(world, loader, name))

    (logits,) = engine.run([Job(image=image(0), models=ensemble)])

    assert isinstance(logits, list)
    assert [row.shape for row in logits] == [(3,)] * len(METHODS)
    assert {row.dtype for row in logits} == {np.dtype("float64")}
    assert len({row.tobytes() for row in logits}) == len(METHODS), "every method answers in its own way"


def test_jobs_of_many_routes_and_sizes_answer_as_each_does_alone(
    world: World, loader: Loader, engine: Engine
) -> None:
    # `full` holds a position embedding, which is of one size.
    texts = ["full, ssf", "lora", "0.4*full", "lora + 0.5*bitfit", "0.3*vpt-deep", "base"]
    jobs = [
        Job(image=image(i, OTHER_SIZE if i % 2 else SIZE), models=runnable(world, loader, text))
        for i, text in enumerate(texts)
    ]

    together = engine.run(jobs)

    for job, answer in zip(jobs, together, strict=True):
        (alone,) = engine.run([job])
        assert isinstance(answer, list)
        assert isinstance(alone, list)
        for ours, expected in zip(answer, alone, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


def test_a_forward_is_counted_with_its_rows_and_distinct_adapters(
    world: World, loader: Loader, engine: Engine, counted: Counted
) -> None:
    both, lora = runnable(world, loader, "lora, ssf"), runnable(world, loader, "0.5*lora")
    jobs = [Job(image=image(0), models=both), Job(image=image(1), models=lora)]
    assert [job.rows for job in jobs] == [2, 1]

    engine.run(jobs)
    assert counted.batches == [(3, 2)]

    engine.run([Job(image=image(0, OTHER_SIZE), models=lora), jobs[0]])
    assert counted.batches[1:] == [(2, 2), (1, 1)], "one forward for each image size"


def test_it_is_warm_after_a_forward_of_the_frozen_backbone(engine: Engine) -> None:
    assert not engine.warmed
    engine.warm(SIZE)
    assert engine.warmed
