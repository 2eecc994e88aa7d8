"""What a run tells people, for tests to read."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from model_store.store import Store
from training.progress import Reporter
from training.run.job import Job, run


class Notes:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []
        self.statuses: list[str] = []

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        self.stages.append(name)
        return nullcontext(lambda n: None)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def status(self, text: str) -> None:
        self.statuses.append(text)


def stages(store: Store, job: Job) -> list[str]:
    notes: Reporter = Notes()
    run(store, job, notes)
    return notes.stages  # type: ignore[attr-defined, no-any-return]
