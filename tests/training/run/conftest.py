"""A short job on real digits."""

from pathlib import Path

import pytest

from model_store.format.records import BackboneRecord
from petl_vit.precision import Precision
from tests.training.conftest import recipe, write_npz
from training.run.job import Job


@pytest.fixture
def job(backbone: BackboneRecord, tmp_path: Path) -> Job:
    return Job(
        backbone=backbone.name,
        task="digits",
        name="lora",
        data="digits",
        heldout=write_npz(tmp_path / "heldout.npz", names=list("0123456789")),
        limit=60,
        recipe=recipe(),
        runs=tmp_path / "runs",
        measure_precision=Precision.FP32,
    )
