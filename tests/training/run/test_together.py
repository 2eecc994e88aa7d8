"""Several adapters in one forward."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from model_store.store import Store
from petl_vit.errors import InvalidInput
from petl_vit.vit import FrozenViT
from tests.training.conftest import NEAR, recipe
from tests.training.run.notes import Notes
from training.run.checkpoint import Checkpoint
from training.run.job import Job, run, run_together
from training.run.precision import frozen


def several(job: Job, **values: Any) -> list[Job]:
    return [
        replace(job, name="lora", recipe=recipe("lora", **values)),
        replace(job, name="lora-1", recipe=recipe("lora", seed=1, learning_rate=1e-2, **values)),
        replace(job, name="ssf", recipe=recipe("ssf", **values)),
    ]


@pytest.fixture
def _in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs compare there; in fp32 sums in another order differ, and AdamW enlarges what differs."""

    def exact(vit: FrozenViT, *given: Any) -> FrozenViT:
        return frozen(vit.to(dtype=torch.float64), *given)

    monkeypatch.setattr("training.run.job.frozen", exact)


@pytest.mark.numerics
@pytest.mark.usefixtures("_in_float64")
def test_jobs_that_run_together_register_what_each_would_alone(store: Store, job: Job) -> None:
    notes, jobs = Notes(), several(job)
    outcomes = run_together(store, jobs, notes)
    assert [str(o.manifest) for o in outcomes] == ["digits/lora:1", "digits/lora-1:1", "digits/ssf:1"]
    assert not any(o.reused for o in outcomes)
    assert [stage for stage in notes.stages if stage.startswith("training")] == ["training lora, lora-1, ssf"]
    assert notes.stages.count("measuring on held-out images") == 1
    assert list(job.runs.iterdir()) == []
    for one, outcome in zip(jobs, outcomes, strict=True):
        manifest = outcome.manifest
        assert manifest.training["beside"] == [other.name for other in jobs if other is not one]
        alone = run(store, replace(one, name=f"{one.name}-alone")).manifest
        assert alone.training["beside"] == []
        assert alone.training["recipe_digest"] == manifest.training["recipe_digest"]
        assert alone.training["losses"] == pytest.approx(manifest.training["losses"], rel=1e-9)
        assert alone.metrics == pytest.approx(manifest.metrics, rel=1e-6)  # measured on scores in float32
        tensors = store.adapters.load(manifest)
        for name, tensor in store.adapters.load(alone).items():
            assert tensor.dtype == torch.float64, name
            assert float((tensor - tensors[name]).abs().max()) <= NEAR * float(tensor.abs().max()), name


def test_of_jobs_that_run_together_those_that_are_registered_are_not_trained_again(
    store: Store, job: Job
) -> None:
    jobs = several(job)
    first = run(store, jobs[1])
    notes = Notes()
    outcomes = run_together(store, jobs, notes)
    assert [o.reused for o in outcomes] == [False, True, False]
    assert outcomes[1].manifest == first.manifest
    assert "training lora, ssf" in notes.stages
    assert all(o.reused for o in run_together(store, jobs))
    assert not any(o.reused for o in run_together(store, [replace(one, again=True) for one in jobs]))


@pytest.mark.numerics
@pytest.mark.usefixtures("_in_float64")
def test_jobs_that_were_killed_together_go_on_together_and_alone(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, epochs = several(job, epochs=3), []

    def killed(self: Checkpoint, state: dict[str, Any]) -> None:
        save(self, state)
        epochs.append(state["epoch"])
        if len(epochs) == 5:  # in the second epoch, before the third adapter is saved
            raise KeyboardInterrupt

    save = Checkpoint.save
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run_together(store, jobs)
    assert epochs == [1, 1, 1, 2, 2]
    assert store.adapters.list() == []
    alone = Notes()
    run(store, jobs[1], alone)
    assert alone.notes[0] == "resuming after epoch 2 of 3"
    notes = Notes()
    resumed = run_together(store, jobs, notes)
    assert notes.notes[:2] == ["lora: resuming after epoch 2 of 3", "ssf: resuming after epoch 1 of 3"]
    whole = run_together(store, [replace(one, name=f"{one.name}-whole") for one in jobs])
    for found, expected in zip(resumed, whole, strict=True):
        losses = expected.manifest.training["losses"]
        assert found.manifest.training["losses"] == pytest.approx(losses, rel=1e-9)
    assert list(job.runs.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": recipe("vpt_shallow")}, "method: VPT-Shallow cannot share a forward: it carries tokens"),
        ({"recipe": recipe("full")}, "method: full fine-tuning cannot share .* replaces .*; train it alone"),
        ({"recipe": recipe("selective")}, "method: selective tuning cannot share a forward"),
        ({"recipe": recipe("vqt")}, "method: VQT cannot share a forward: it joins queries"),
        ({"name": "lora"}, "name: two adapters would be named 'lora'; give each a --name of its own"),
        ({"recipe": recipe(epochs=3)}, "epochs: other has 3, lora has 2; give both the same"),
        ({"recipe": recipe(batch_size=8)}, "batch_size: other has 8, lora has 16"),
        ({"recipe": recipe(augment="flip")}, "augment: other has flip, lora has none"),
        ({"recipe": recipe(precision="bf16")}, "precision: other has bf16, lora has fp32"),
        ({"data": "mnist"}, "data: other has mnist, lora has digits"),
        ({"limit": 50}, "limit: other has 50, lora has 60"),
    ],
)
def test_jobs_that_cannot_run_together_are_refused_before_anything_is_read_or_stored(
    store: Store, job: Job, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        run_together(store, [job, replace(job, **{"name": "other"} | change)])
    assert store.tasks.list() == []
    assert store.adapters.list() == []
