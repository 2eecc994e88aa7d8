"""What the evaluator knows at one moment: what its gauges, its page, `--json` and `corolla watch` show.

Numbers that are not known are None, never NaN. Shares, accuracies and confidences are in [0, 1], times are
seconds since 1970.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Kind = Literal["shift", "accuracy"]


class StatusRecord(BaseModel):
    """Frozen; unknown fields are left out, so that an older `corolla watch` reads a newer evaluator's."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Interval(StatusRecord):
    """A number with its interval at 95 %."""

    value: Share
    low: Share
    high: Share


class ReferenceStatus(StatusRecord):
    """What the route's traffic is compared with.

    Attributes:
        digest: Of the route that was measured; the first characters, as servers show them.
        data: Of the labelled images that it was measured on, as well.
        stale: Not all servers answer as when it was measured, so that no estimate is made.
    """

    digest: str
    data: str
    images: Annotated[int, Field(ge=0)]
    accuracy: Share
    confidence: Share | None = None
    agreement: Share | None = None
    stale: bool = False


class Estimate(StatusRecord):
    """What one method says about the accuracy of the window's answers, from no label of them.

    Attributes:
        method: One of `serving.monitor.estimates.METHODS`.
        low, high: Where chance would put it at 95 %, if the method's assumption held.
        raw: What the method says before it is corrected by what it says of the reference; None where nothing
            is corrected.
        trusted: Whether it takes part in the headline.
        why: What is wrong where it does not; empty where it does.
    """

    method: str
    value: Share
    low: Share
    high: Share
    raw: Share | None = None
    trusted: bool = True
    why: str = ""


class Headline(StatusRecord):
    """The median of the estimates that are trusted.

    Attributes:
        low, high: The lowest and the highest that their intervals reach.
        spread: The highest less the lowest of them: a large one says not to trust the headline. A small one
            does not prove it.
        trusted, why: Whether to believe it, and if not, why not.
    """

    value: Share
    low: Share
    high: Share
    spread: Share
    trusted: bool = True
    why: str = ""


class Line(StatusRecord):
    """The line through the pairs' agreements: on the reference, and in the window.

    Attributes:
        pairs: Those that it is fitted to.
        used: Whether estimates are made from it; `why` says why not.
    """

    r2: Share
    slope: FiniteFloat
    pairs: int
    used: bool
    why: str = ""


class PredictionPowered(Interval):
    """Accuracy from few labels, whose images were chosen by chance, and the predictions for all images.

    Attributes:
        labels: Independent labels that would tell as much as those with their weights do.
    """

    labels: FiniteFloat


class PostStratified(Interval):
    """Accuracy from the labels at hand, each bin of confidence weighted by its share of all images.

    Attributes:
        covered: Share of the images whose bin has labels; the interval allows anything for the others.
    """

    covered: Share


class Measured(StatusRecord):
    """What labels say, in the window of labels.

    Attributes:
        labels: First labels of images, as corrected since.
        accuracy: Share of them that say the answer was right; `low` and `high` at 95 %, as if the labelled
            images were chosen by chance.
    """

    labels: int
    accuracy: Share
    low: Share
    high: Share
    prediction_powered: PredictionPowered | None = None
    post_stratified: PostStratified | None = None

    @property
    def best(self) -> Interval:
        """From labels that chance chose where there are any, else from the labels as they are."""
        return self.prediction_powered or Interval(value=self.accuracy, low=self.low, high=self.high)


class MemberStatus(StatusRecord):
    """One member of an ensemble.

    Attributes:
        agreement: Share of the window's images on which it names the class that is answered.
        reference: Its accuracy on the reference.
        estimate: Of its accuracy in the window, from the pairs' agreements.
        measured: Of the labels in the window of labels; `labels` is how many there are.
    """

    member: str
    agreement: Share | None = None
    reference: Share | None = None
    estimate: Share | None = None
    labels: int = 0
    measured: Share | None = None


class Alarm(StatusRecord):
    """Evidence that the traffic is not what it was when the reference was measured.

    Attributes:
        kind: `shift` is from the images alone, `accuracy` from labels.
        indicator: Which indicator says most.
        e_value: Evidence against "nothing has changed", as its logarithm to base 10.
        threshold: What it had to reach, as its logarithm to base 10.
        images: Images, or labels, that were counted until it was raised.
        first_seen: When it was raised.
    """

    route: str
    domain: str
    kind: Kind
    indicator: str
    e_value: FiniteFloat
    threshold: FiniteFloat
    images: int
    first_seen: FiniteFloat


class Point(StatusRecord):
    """The window's numbers at one moment of the past.

    Attributes:
        images: Answered since the point before.
    """

    at: FiniteFloat
    images: int
    confidence: Share | None = None
    agreement: Share | None = None
    estimate: Share | None = None
    measured: Share | None = None


class DomainStatus(StatusRecord):
    """One route in one domain.

    Attributes:
        images: Answered since the evaluator counts.
        images_in_window: Answered in the window.
        confidence: Mean probability of the answers in the window.
        agreement: Mean share of the members that vote for the answer; None where there is one member.
        foreign: Share of the images in the window that are unlike the reference's; None where that is not
            known.
        evidence: By indicator, the logarithm to base 10 of its e-value.
        threshold: What it has to reach for an alarm.
        history: The oldest first, at most 120.
    """

    domain: str
    images: int
    images_in_window: int
    confidence: Share | None = None
    agreement: Share | None = None
    foreign: Share | None = None
    estimates: tuple[Estimate, ...] = ()
    headline: Headline | None = None
    line: Line | None = None
    measured: Measured | None = None
    members: tuple[MemberStatus, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    evidence: dict[str, FiniteFloat] = {}
    threshold: FiniteFloat | None = None
    history: tuple[Point, ...] = ()


class RouteStatus(StatusRecord):
    """One route.

    Attributes:
        unusable: Whether it has a reference that cannot be used; `problem` says why.
        problem: Why nothing is estimated; empty where something is.
    """

    route: str
    reference: ReferenceStatus | None = None
    unusable: bool = False
    problem: str = ""
    domains: tuple[DomainStatus, ...] = ()


class Status(StatusRecord):
    """Everything that the evaluator knows.

    Attributes:
        at: When the source was read, by its clock.
        source: What was read.
        problems: What may be missing or wrong, one sentence each; empty where all is well.
        window_s, label_window_s: The lengths of the windows, of images and of labels.
    """

    at: FiniteFloat
    source: str
    problems: tuple[str, ...] = ()
    window_s: FiniteFloat
    label_window_s: FiniteFloat
    routes: tuple[RouteStatus, ...] = ()

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """All that are raised."""
        return tuple(alarm for route in self.routes for domain in route.domains for alarm in domain.alarms)
