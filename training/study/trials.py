"""The trials of a sweep as records: what each tried, and what became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import JsonValue

from training.study.grids import Point


class State(StrEnum):
    """What became of a trial."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        return self not in (State.WAITING, State.RUNNING)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point of a method's grid, trained on the train part and measured on the validation part.

    Attributes:
        place: Of the point in the method's list.
        reason: Why it was pruned or failed.
        value: Validation accuracy of its last epoch; None where it did not get there.
        values: Validation accuracies by the epoch after which they were measured.
        recipe: The recipe as it was trained, learning rates included; empty until it is.
        parameters: What the method trains, the head not counted; 0 until it is known.
        seconds: Its share of the time of the forwards that it was in.
        beside: The trials that were in the same forwards, as `lora 3`.
    """

    method: str
    place: int
    point: Point
    state: State = State.WAITING
    reason: str = ""
    value: float | None = None
    values: Mapping[int, float] = field(default_factory=dict)
    recipe: Mapping[str, JsonValue] = field(default_factory=dict)
    parameters: int = 0
    seconds: float = 0.0
    beside: Sequence[str] = ()

    def __str__(self) -> str:
        """`lora 3`"""
        return f"{self.method} {self.place + 1}"

    @property
    def settings(self) -> str:
        """`rank 8, lr 0.001`: what sets it apart from the other trials of its method."""
        return ", ".join(f"{_SHORT.get(name, name)} {_text(value)}" for name, value in self.point.items())

    @property
    def order(self) -> tuple[float, int, float, float, int]:
        """Sorts complete trials, the best first: by accuracy; then fewer parameters, then lower rates."""
        rate, decay = (self.recipe.get(name) or 0.0 for name in ("learning_rate", "weight_decay"))
        assert self.value is not None, f"{self} is not complete"
        assert isinstance(rate, float | int), f"{self} has no learning rate"
        assert isinstance(decay, float | int), f"{self} has no weight decay"
        return -self.value, self.parameters, float(rate), float(decay), self.place

    def document(self) -> dict[str, JsonValue]:
        """As it stands in a manifest and in a log."""
        recipe = dict(self.recipe)
        config = recipe.pop("config", {})
        recipe.pop("method", None)
        return {
            "method": self.method,
            "trial": self.place + 1,
            "point": dict(self.point),
            "config": config,
            "recipe": recipe,
            "parameters": self.parameters,
            "state": str(self.state),
            "reason": self.reason,
            "value": self.value,
            "values": {str(epoch): value for epoch, value in self.values.items()},
            "seconds": round(self.seconds, 3),
            "beside": list(self.beside),
        }


_SHORT = {"learning_rate": "lr", "lr_factor": "lr x", "head_rate": "head lr", "weight_decay": "wd"}


def best(trials: Sequence[Trial]) -> Trial | None:
    """The winner among trials: of those with the highest accuracy the one with the fewest parameters, and of
    these the one with the lowest learning rate, then weight decay. None where no trial is complete."""
    complete = [trial for trial in trials if trial.state is State.COMPLETE]
    return min(complete, key=lambda trial: trial.order, default=None)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
