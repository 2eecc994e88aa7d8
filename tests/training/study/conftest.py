"""A sweep of a few tiny trials on real digits."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_store.store import Store
from petl_vit.precision import Precision
from tests.training.conftest import imported, write_npz
from tests.training.run.notes import Notes
from training.run.job import Job
from training.run.recipe import Recipe
from training.study.grids import Grid
from training.study.session import Sweep
from training.study.trials import Trial

RATES = (5e-4, 1e-3)


class Shown(Notes):
    """A board that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Mapping[str, Sequence[Trial]] = {}

    def show(self, trials: Mapping[str, Sequence[Trial]]) -> None:
        self.last = trials


def grid(**methods: Mapping[str, Any]) -> Grid:
    return Grid(name="tiny", methods=methods or {"*": {"learning_rate": RATES}})


@pytest.fixture
def sweep(store: Store, tmp_path: Path) -> Sweep:
    """Two trials of two methods that share a forward, on 36 digits; 9 more are validation images."""
    job = Job(
        backbone=imported(store, depth=1).name,
        task="digits",
        name="-",
        data=write_npz(tmp_path / "digits.npz", classes=3),
        holdout=0.25,
        recipe=Recipe.of(method="bitfit", epochs=3, batch_size=16),
        runs=tmp_path / "runs",
        measure_precision=Precision.FP32,
    )
    return Sweep(
        name="tiny",
        grid=grid(),
        methods=("bitfit", "ssf"),
        job=job,
        prune=False,
        together=4,
        storage=str(tmp_path / "trials.log"),
    )


def with_recipe(sweep: Sweep, **values: Any) -> Sweep:
    return replace(sweep, job=replace(sweep.job, recipe=sweep.job.recipe.model_copy(update=values)))
