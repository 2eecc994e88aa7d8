"""One look of the evaluator: what was counted since the one before, and what it is compared with.

The evaluator hands every look to the alarms, in order and once: what they know is a function of the looks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import JsonValue

from serving.monitor.samples import Counts, Place
from serving.monitor.status import Alarm


@dataclass(frozen=True, kw_only=True)
class ReferenceValues:
    """What the servers' gauges say of the reference of a route; the same on all that answer with it.

    Attributes:
        digest: Of the route; the first characters.
        data: Of the labelled images, as well.
        reference: Of all that the reference says, as well.
        images: The labelled images.
        member_accuracies: By member.
        pair_agreements: Share of the images on which both members of a pair name one class, by pair.
        bins: Share of the images in each bin of confidence.
        estimates: What each additive method says of the reference itself, by method.
        rates: By indicator.
    """

    digest: str
    data: str
    images: int
    accuracy: float
    reference: str = ""
    confidence: float | None = None
    agreement: float | None = None
    member_accuracies: Mapping[str, float] = field(default_factory=dict)
    pair_agreements: Mapping[str, float] = field(default_factory=dict)
    bins: Mapping[str, float] = field(default_factory=dict)
    estimates: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """What tells it from any other."""
        return f"{self.digest} {self.data} {self.reference}"


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the alarms see.

    Attributes:
        at: Seconds since 1970; never before the look before.
        increase: Of every counter since the look before, summed over servers.
        references: By route; a route whose reference is missing, stale or not the same on all servers has
            none, and its evidence waits.
    """

    at: float
    increase: Counts
    references: Mapping[str, ReferenceValues]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the alarms say of one route in one domain; see `serving.monitor.status.DomainStatus`.

    Attributes:
        problem: Why something was not counted; empty where all was.
    """

    alarms: tuple[Alarm, ...] = ()
    evidence: Mapping[str, float] = field(default_factory=dict)
    threshold: float | None = None
    problem: str = ""


class Alarms(Protocol):
    """What raises alarms."""

    def step(self, look: Look) -> Mapping[Place, Judgement]:
        """Takes one look, and says what is true after it."""
        ...

    def state(self) -> JsonValue:
        """All that it knows, to go on from after a restart."""
        ...

    def restore(self, state: JsonValue) -> None:
        """Goes on from a state.

        Raises:
            Corrupt: It is not one.
        """
        ...
