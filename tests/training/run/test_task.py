from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_store.store import Store
from petl_vit.errors import Conflict, InvalidInput
from tests.training.conftest import recipe, write_npz
from tests.training.run.notes import stages
from training.run import probe
from training.run.job import Job, run


def test_the_base_head_is_fitted_once_and_shared_by_all_adapters(store: Store, job: Job) -> None:
    assert "fitting the base head" in stages(store, job)
    ssf = replace(job, name="ssf", recipe=recipe("ssf"), limit=40)
    assert "fitting the base head" not in stages(store, ssf)
    lora, other = (store.adapters.manifest("digits", name, 1) for name in ("lora", "ssf"))
    assert lora.task_digest == other.task_digest
    assert lora.metrics["base_accuracy"] == other.metrics["base_accuracy"]
    assert len(store.tasks.list()) == 1


def test_two_first_runs_of_a_task_at_once_share_the_faster_ones_base_head(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = probe.fit

    def slow(*arguments: Any) -> Any:
        monkeypatch.setattr(probe, "fit", fit)
        run(store, replace(job, name="faster", limit=50))
        return fit(*arguments)

    monkeypatch.setattr(probe, "fit", slow)
    manifest = run(store, job).manifest
    assert manifest.task_digest == store.adapters.manifest("digits", "faster", 1).task_digest


def test_other_classes_under_the_same_task_name_are_refused(store: Store, job: Job, tmp_path: Path) -> None:
    run(store, job)
    for classes in (3, 10):
        other = replace(
            job, data=write_npz(tmp_path / "other.npz", classes=classes), heldout=None, limit=None
        )
        with pytest.raises(
            InvalidInput, match=r"task 'digits' has other classes.*choose another --task"
        ) as error:
            run(store, other)
        assert error.value.field == "data"


def test_another_input_than_the_tasks_is_refused_instead_of_ignored(store: Store, job: Job) -> None:
    run(store, job)
    with pytest.raises(InvalidInput, match="image_size: task 'digits' has 32, not 48; leave it out"):
        run(store, replace(job, image_size=48))
    with pytest.raises(InvalidInput, match="resize: task 'digits' has squash, not crop"):
        run(store, replace(job, resize="crop"))
    assert run(store, replace(job, image_size=32, resize="squash")).reused


def test_a_second_task_on_the_same_data_has_its_own_input_and_base_head(store: Store, job: Job) -> None:
    run(store, job)
    second = run(store, replace(job, task="large", image_size=48, resize="crop")).manifest
    task = store.tasks.get("large", second.backbone_digest)
    assert (task.spec.preprocess.image_size, task.spec.preprocess.resize) == (48, "crop")
    assert {found.spec.name for found in store.tasks.list()} == {"digits", "large"}


def test_a_conflict_that_is_no_race_is_not_hidden(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = probe.fit

    def slow(*arguments: Any) -> Any:
        monkeypatch.setattr(probe, "fit", fit)
        run(store, replace(job, image_size=48))
        return fit(*arguments)

    monkeypatch.setattr(probe, "fit", slow)
    with pytest.raises(Conflict, match="different preprocess"):
        run(store, job)


def test_settings_that_do_not_fit_the_backbone_leave_no_task_behind(store: Store, job: Job) -> None:
    method = {"method": "selective", "config": {"blocks": [99]}}
    wrong = replace(job, task="fresh", recipe=job.recipe.model_copy(update=method))
    with pytest.raises(InvalidInput, match="no block 99"):
        run(store, wrong)
    assert "fresh" not in {record.spec.name for record in store.tasks.list()}
