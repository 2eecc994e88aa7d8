"""The trials of a sweep as records: what each tried, and what became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import JsonValue

from training.study.grids import FACTOR, Point


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
        point = dict(self.point)
        if (rate := self.recipe.get("learning_rate")) is not None and point.pop(FACTOR, None) is not None:
            point["learning_rate"] = float(str(rate))
        return ", ".join(f"{_SHORT.get(name, name)} {_text(value)}" for name, value in point.items())

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


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What sharing forwards saved.

    Attributes:
        packs, trials: How many packs of several trials there were, and how many trials were in them.
        rows: Image rows that went through the frozen patch embedding.
        rows_alone: Those that would have, had every trial run alone.
        seconds: What the steps of those packs took; on a CPU its time in all threads.
        seconds_alone: An estimate of what they would have taken alone: `seconds` by the share that a joint
            step was measured to take of the trials' steps alone.
    """

    packs: int = 0
    trials: int = 0
    rows: int = 0
    rows_alone: int = 0
    seconds: float = 0.0
    seconds_alone: float = 0.0

    def __add__(self, other: "Saved") -> "Saved":
        return Saved(**{name: value + getattr(other, name) for name, value in vars(self).items()})


_SHORT = {"learning_rate": "lr", FACTOR: "lr x", "head_rate": "head lr", "weight_decay": "wd"}


def best(trials: Sequence[Trial]) -> Trial | None:
    """The winner among trials: of those with the highest accuracy the one with the fewest parameters, and of
    these the one with the lowest learning rate, then weight decay. None where no trial is complete."""
    complete = [trial for trial in trials if trial.state is State.COMPLETE]
    return min(complete, key=lambda trial: trial.order, default=None)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
