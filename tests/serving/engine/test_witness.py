"""A job's witness: one row more, which no job fails for."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from model_store.resolution.loading import Loader
from petl_vit.batch import Features, Row, Witness
from serving.engine.engine import Job
from tests.serving.engine.parts import Parts, same
from tests.serving.world import World

CLASSES = 3


@pytest.fixture(scope="module")
def loader(world: World) -> Loader:
    return Loader(world.store, world.backbone)


@pytest.fixture
def parts(world: World, loader: Loader) -> Parts:
    return Parts(world, loader)


def witnessed(parts: Parts, job: Job) -> Job:
    (base,) = parts.models("base")
    return replace(job, witness=Witness(base.terms))


def test_a_witness_says_the_features_and_the_logits_of_the_base_beside_the_answer(parts: Parts) -> None:
    job = parts.job("lora, ssf")
    (base,) = parts.models("base")
    apart = replace(job, models=(Features(base.terms), base))

    alone, with_witness, (features, logits) = parts.engine.run([job, witnessed(parts, job), apart])

    assert isinstance(with_witness, list)
    same(with_witness[:-1], alone)
    np.testing.assert_allclose(with_witness[-1][:-CLASSES], features, atol=1e-5)
    np.testing.assert_allclose(with_witness[-1][-CLASSES:], logits, atol=1e-5)


def test_it_takes_no_room_in_the_queue(parts: Parts) -> None:
    job = parts.job("lora, ssf")
    assert (witnessed(parts, job).rows, witnessed(parts, job).nbytes) == (job.rows, job.nbytes)


def test_a_witness_that_finds_no_memory_is_left_out(parts: Parts) -> None:
    job = parts.job("lora, ssf")
    (alone,) = parts.engine.run([job])

    def fail(rows: Sequence[Row]) -> None:
        if any(isinstance(row.model, Witness) for row in rows):
            raise torch.OutOfMemoryError("none left")

    parts.backend.fail = fail
    answered, other = parts.engine.run([witnessed(parts, job), job])
    same(answered, alone)
    same(other, alone)
