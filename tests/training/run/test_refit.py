"""The base head of a task, fitted again."""

from dataclasses import replace
from pathlib import Path

import pytest

from model_store.store import Store
from petl_vit.errors import Conflict, InvalidInput
from tests.training.conftest import recipe, write_npz
from tests.training.run.notes import Notes
from training.run import job as jobs
from training.run import refit


@pytest.fixture
def again(job: jobs.Job) -> refit.Job:
    return refit.Job(backbone=job.backbone, task="digits", data="digits", limit=150)


def test_a_limit_of_the_first_run_is_warned_of_and_a_refit_is_the_next_version(
    store: Store, job: jobs.Job, again: refit.Job
) -> None:
    job = replace(job, heldout=None, recipe=recipe("linear", epochs=1, drop_path=0.0))
    notes = Notes()
    jobs.run(store, job, notes)
    assert notes.notes == [
        "all adapters of task digits will start from a base head that is fitted to the 60 images of this "
        "--limit; `corolla tasks refit-head digits` fits it to more"
    ]
    first = store.tasks.get("digits")
    assert (first.version, first.training["images"], first.training["limit"]) == (1, 60, 60)
    refitted = refit.refit(store, again)
    assert store.tasks.get("digits") == refitted.task
    assert (refitted.task.version, refitted.task.training["images"], refitted.images) == (2, 150, 359)
    assert refitted.accuracy_before is not None
    assert refitted.accuracy > refitted.accuracy_before + 0.01
    with pytest.raises(Conflict, match="version 2 of task 'digits' has this base head already"):
        refit.refit(store, again)
    trained = jobs.run(store, job)
    assert not trained.reused
    assert (trained.manifest.version, trained.manifest.task_digest) == (2, refitted.task.digest)
    assert trained.manifest.metrics["base_accuracy"] == pytest.approx(refitted.accuracy)
    assert store.adapters.manifest("digits", "lora", 1).task_digest == first.digest


def test_a_refit_to_other_classes_is_refused(
    store: Store, job: jobs.Job, again: refit.Job, tmp_path: Path
) -> None:
    jobs.run(store, replace(job, recipe=recipe("linear", epochs=1)))
    with pytest.raises(InvalidInput, match="task 'digits' has other classes"):
        refit.refit(store, replace(again, data=write_npz(tmp_path / "three.npz", classes=3), limit=None))
