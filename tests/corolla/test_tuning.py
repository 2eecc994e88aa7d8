"""A sweep by a program."""

from pathlib import Path

import pytest

import corolla
from model_store.store import Store
from petl_vit.errors import InvalidInput, NotFound
from tests.training.conftest import imported, write_npz


@pytest.fixture
def store(tmp_path: Path) -> corolla.Store:
    imported(Store.open(str(tmp_path / "store")))
    return corolla.Store(tmp_path / "store", device="cpu", precision="fp32")


def test_a_program_tunes_methods_and_gets_their_trials_and_winners(
    store: corolla.Store, tmp_path: Path
) -> None:
    swept = store.sweep(
        "bitfit",
        data=write_npz(tmp_path / "digits.npz"),
        task="digits",
        grid={"bitfit": {"lr": (5e-4, 1e-3)}},
        epochs=1,
        batch_size=16,
        runs=tmp_path / "runs",
        storage=str(tmp_path / "trials.log"),
    )
    (tuned,) = swept.methods
    assert [trial.point for trial in tuned.trials] == [{"learning_rate": 5e-4}, {"learning_rate": 1e-3}]
    assert tuned.outcome is not None
    assert store.adapter("bitfit", task="digits") == tuned.outcome.manifest


def test_a_sweep_that_cannot_work_is_refused(store: corolla.Store) -> None:
    with pytest.raises(NotFound, match="did you mean lora"):
        store.sweep("lorra", data="digits", task="digits")
    with pytest.raises(InvalidInput, match="the grid: there is no setting 'rnk' of lora"):
        store.sweep("lora", data="digits", task="digits", grid={"lora": {"rnk": [1]}})
