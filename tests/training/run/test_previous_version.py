"""What a run says of the version before its own."""

from dataclasses import replace

from model_store.store import Store
from tests.training.conftest import recipe
from tests.training.run.notes import Notes
from training.run.job import Job, run


def test_a_version_that_does_worse_than_the_one_before_says_so(store: Store, job: Job) -> None:
    first = run(store, job).manifest
    notes, worse = Notes(), recipe(learning_rate=1e-7, epochs=1, head_init="random")
    second = run(store, replace(job, recipe=worse), notes).manifest

    assert (first.version, second.version) == (1, 2)
    assert second.metrics["accuracy"] < first.metrics["accuracy"]
    assert f"{first} did better on the same held-out images" in "\n".join(notes.notes)
