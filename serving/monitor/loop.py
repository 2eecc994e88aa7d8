"""Steps of an evaluator at a steady pace, and its state in a file."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

from model_store.place.whole_file import write_whole
from petl_vit.errors import Corrupt, InvalidInput
from serving.monitor.evaluator import Evaluator
from serving.monitor.status import Status

_log = logging.getLogger(__name__)


class StateFile:
    """One JSON file, which is whole at every moment.

    Raises:
        InvalidInput: Its folder does not exist.
    """

    def __init__(self, path: Path) -> None:
        if not path.parent.is_dir() or path.is_dir():
            problem = f"{path} is a folder" if path.is_dir() else f"{path.parent} is not a folder"
            raise InvalidInput(problem, field="state", remedy="name a file in a folder that exists")
        self.path = path

    def load(self, evaluator: Evaluator) -> bool:
        """Lets an evaluator go on from it; whether there was one.

        Raises:
            Corrupt: It is not a state.
            InvalidInput: It is of another source, or cannot be read.
        """
        try:
            state: Any = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return False
        except OSError as error:
            raise InvalidInput(
                f"{self.path} cannot be read: {(error.strerror or '').lower()}", field="state"
            ) from error
        except ValueError as error:
            raise Corrupt(f"{self.path} is not JSON", field="state", remedy="remove it") from error
        try:
            evaluator.restore(state)
        except (Corrupt, InvalidInput) as error:
            problem = f"{self.path}: {error.problem}"
            raise type(error)(problem, field="state", remedy=error.remedy) from error
        return True

    def save(self, evaluator: Evaluator) -> str:
        """Keeps what an evaluator knows; why it could not, empty where it could."""
        try:
            with write_whole(self.path) as draft:
                draft.write_text(json.dumps(evaluator.state(), separators=(",", ":")))
        except OSError as error:
            return f"the state cannot be kept in {self.path}: {(error.strerror or str(error)).lower()}"
        return ""


class Loop:
    """Steps an evaluator until it is stopped.

    Args:
        state: Where it goes on after a restart; None forgets.
        after: Called after every step, in the thread of the loop.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        state: StateFile | None = None,
        after: Callable[[Status], None] = lambda _: None,
    ) -> None:
        self._evaluator, self._state, self._after = evaluator, state, after
        self._stopped = Event()

    def step(self) -> Status:
        """One step. A fault of the evaluator is a problem of its status, and the loop goes on."""
        try:
            status = self._evaluator.step()
        except Exception as error:
            _log.exception("a step of the evaluator failed")
            status = self._evaluator.trouble(f"a step failed: {type(error).__name__}: {error}")
        if self._state is not None and status.at and (problem := self._state.save(self._evaluator)):
            status = self._evaluator.trouble(problem)
        self._after(status)
        return status

    def run(self) -> None:
        """Steps every `every_s` seconds until `stop`."""
        while not self._stopped.is_set():
            self.step()
            self._stopped.wait(self._evaluator.settings.every_s)

    def stop(self) -> None:
        """Ends `run` after the step that runs."""
        self._stopped.set()
