from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from model_store.resolution.loading import Loader
from petl_vit.batch import Row
from petl_vit.errors import InvalidInput, Overloaded
from petl_vit.slots import Slots
from serving.engine.engine import Engine, Job, Logits
from tests.serving.engine.parts import Counted, Parts, image, same
from tests.serving.world import METHODS, SIZE, World

OTHER_SIZE = 48


@pytest.fixture(scope="module")
def loader(world: World) -> Loader:
    return Loader(world.store, world.backbone)


@pytest.fixture
def parts(world: World, loader: Loader) -> Parts:
    return Parts(world, loader)


def as_alone(world: World, loader: Loader, jobs: Sequence[Job], found: Sequence[Logits | Exception]) -> None:
    """Every job's answer is what an engine of plenty gives it alone."""
    engine = Parts(world, loader).engine
    assert len(found) == len(jobs)
    for job, answer in zip(jobs, found, strict=True):
        (alone,) = engine.run([job])
        same(answer, alone)


# Answers


def test_a_job_has_one_answer_for_each_of_its_models(parts: Parts) -> None:
    ensemble = tuple(model for name in METHODS for model in parts.models(name))

    (logits,) = parts.engine.run([Job(image=image(0), models=ensemble)])

    assert isinstance(logits, list)
    assert [row.shape for row in logits] == [(3,)] * len(METHODS)
    assert {row.dtype for row in logits} == {np.dtype("float64")}
    assert len({row.tobytes() for row in logits}) == len(METHODS), "every method answers in its own way"


def test_jobs_of_many_routes_and_sizes_answer_as_each_does_alone(
    world: World, loader: Loader, parts: Parts
) -> None:
    # `full` holds a position embedding, which is of one size.
    texts = ["full, ssf", "lora", "0.4*full", "lora + 0.5*bitfit", "0.3*vpt-deep", "base"]
    jobs = [parts.job(text, i, OTHER_SIZE if i % 2 else SIZE) for i, text in enumerate(texts)]

    as_alone(world, loader, jobs, parts.engine.run(jobs))


def test_a_forward_is_counted_with_its_rows_and_distinct_adapters(parts: Parts) -> None:
    both, lora = parts.job("lora, ssf"), parts.job("0.5*lora", 1)
    assert [job.rows for job in (both, lora)] == [2, 1]

    parts.engine.run([both, lora])
    assert parts.counted.batches == [(3, 2)]

    parts.engine.run([parts.job("0.5*lora", 0, OTHER_SIZE), both])
    assert parts.counted.batches[1:] == [(2, 2), (1, 1)], "one forward for each image size"


def test_it_is_warm_after_a_forward_of_the_frozen_backbone(parts: Parts) -> None:
    assert not parts.engine.warmed
    parts.engine.warm(SIZE)
    assert parts.engine.warmed


# Slots


def test_a_batch_of_more_adapters_than_slots_runs_in_parts(world: World, loader: Loader) -> None:
    parts = Parts(world, loader, slots=3)
    texts = ["lora, ssf", "bitfit", "lora, 0.5*ssf + 0.5*lora", "layernorm, linear, base, ssf"]
    jobs = [parts.job(text, i) for i, text in enumerate(texts)]

    found = parts.engine.run(jobs)

    as_alone(world, loader, jobs, found)
    assert max(adapters for _, adapters in parts.counted.batches) <= 3
    assert sum(rows for rows, _ in parts.counted.batches) == 9
    assert parts.backend.tried == [rows for rows, _ in parts.counted.batches], "none was tried in vain"
    assert len(parts.slots) <= 3


def test_pinned_slots_only_make_the_parts_smaller(world: World, loader: Loader) -> None:
    parts = Parts(world, loader, slots=3)
    for text in ("lora", "ssf"):
        parts.slots.pin(parts.models(text)[0].terms[0].adapter)
    jobs = [parts.job(text, i) for i, text in enumerate(["bitfit, layernorm", "lora", "linear", "base"])]

    as_alone(world, loader, jobs, parts.engine.run(jobs))


def test_a_model_of_more_adapters_than_slots_fails_alone(world: World, loader: Loader) -> None:
    parts = Parts(world, loader, slots=2)
    jobs = [parts.job("lora", 0), parts.job("0.3*lora + 0.3*ssf + 0.3*bitfit", 1), parts.job("ssf", 2)]

    first, large, last = parts.engine.run(jobs)

    assert isinstance(large, InvalidInput), "no pause makes room, so no retry is suggested"
    assert large.field == "slots"
    as_alone(world, loader, [jobs[0], jobs[2]], [first, last])


# Out of memory


def above(rows_that_fit: int, error: BaseException) -> Callable[[Sequence[Row]], None]:
    def fail(rows: Sequence[Row]) -> None:
        if len(rows) > rows_that_fit:
            raise error

    return fail


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("could not create a primitive"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_what_does_not_fit_into_memory_runs_in_halves(
    world: World, loader: Loader, parts: Parts, error: BaseException
) -> None:
    names = [name for name in METHODS if name not in ("full", "selective")]
    jobs = [parts.job(f"{name}, 0.5*{name}", i) for i, name in enumerate(names)]
    parts.backend.fail = above(3, error)

    found = parts.engine.run(jobs)

    as_alone(world, loader, jobs, found)
    assert sum(rows for rows, _ in parts.counted.batches) == 2 * len(names)
    assert max(rows for rows, _ in parts.counted.batches) <= 3
    assert parts.counted.out_of_memories == sum(rows > 3 for rows in parts.backend.tried) > 0


def test_out_of_memory_frees_the_idle_slots_first(world: World, loader: Loader, parts: Parts) -> None:
    idle = parts.models("ssf, bitfit, layernorm")
    for model in idle:
        parts.slots.enter(model.terms[0].adapter)
    parts.slots.pin(idle[0].terms[0].adapter)
    there: list[int] = []

    def fail(rows: Sequence[Row]) -> None:
        there.append(len(parts.slots))
        if len(there) == 1:
            raise torch.OutOfMemoryError("no memory")

    parts.backend.fail = fail
    jobs = [parts.job("lora", i) for i in range(4)]

    as_alone(world, loader, jobs, parts.engine.run(jobs))
    assert there == [3, 1, 2], "what is pinned stays"


def test_a_row_that_never_fits_is_refused_alone_and_the_engine_lives(
    world: World, loader: Loader, parts: Parts
) -> None:
    huge = parts.models("ssf")[0]

    def fail(rows: Sequence[Row]) -> None:
        if any(row.model.digests == huge.digests for row in rows):
            raise torch.OutOfMemoryError("no memory")

    parts.backend.fail = fail
    jobs = [parts.job(text, i) for i, text in enumerate(["lora", "bitfit", "ssf", "lora, ssf", "base"])]

    found = parts.engine.run(jobs)

    for refused in found[2:4]:
        assert isinstance(refused, Overloaded)
        assert refused.field == "memory"
        assert refused.remedy
    as_alone(world, loader, [jobs[0], jobs[1], jobs[4]], [found[0], found[1], found[4]])
    parts.backend.fail = lambda rows: None
    as_alone(world, loader, jobs, parts.engine.run(jobs))


def test_other_errors_of_a_forward_are_no_matter_of_memory(parts: Parts) -> None:
    parts.backend.fail = above(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        parts.engine.run([parts.job("lora"), parts.job("ssf")])

    assert parts.backend.tried == [2]
    assert parts.counted.out_of_memories == 0
    parts.backend.fail = lambda rows: None
    assert len(parts.engine.run([parts.job("lora")])) == 1


# Back ends


def test_any_back_end_of_the_same_methods_serves(parts: Parts) -> None:
    class Constant:
        """Answers without a backbone."""

        def warm(self, size: int) -> None: ...

        def logits(self, images: Sequence[Tensor], rows: Sequence[Row]) -> list[Tensor]:
            return [images[row.image].mean(dim=(1, 2)) for row in rows]

    engine = Engine(Constant(), slots=Slots(), metrics=Counted())
    engine.warm(SIZE)

    ((logits,),) = engine.run([parts.job("lora")])

    np.testing.assert_allclose(logits, image(0).mean(dim=(1, 2)).numpy(), rtol=1e-6)
