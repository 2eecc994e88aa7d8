"""What labels say of a route in a domain, from the counters of a window."""

from serving.monitor.intervals import share, wilson
from serving.monitor.prediction_powered import Moments, Stratified, post_stratified, prediction_powered
from serving.monitor.samples import Counts, Place
from serving.monitor.status import Measured, PostStratified, PredictionPowered

_SCORED = "corolla_estimated_predictions_total"
_CORRECT = "corolla_estimated_correct_total"
_CORRECTIONS = "corolla_feedback_corrections_total"
_SQUARES = "corolla_estimated_correct_squares_total"


def measured(counts: Counts, place: Place) -> Measured | None:
    """The accuracy of the labels at hand, and what it says of all images; None where there are no labels."""
    outcomes = counts.by("outcome", "corolla_feedback_total", *place)
    # A correction in the window may be of a label from before it, hence the limits. One to `unknown` takes
    # its label back.
    for before, amount in counts.by("from", _CORRECTIONS, *place).items():
        outcomes[before] = outcomes.get(before, 0.0) - amount
    for after, amount in counts.by("to", _CORRECTIONS, *place).items():
        outcomes[after] = outcomes.get(after, 0.0) + amount
    labels = outcomes.get("correct", 0.0) + outcomes.get("incorrect", 0.0)
    if labels < 1:
        return None
    correct = min(max(outcomes.get("correct", 0.0), 0.0), labels)
    low, high = wilson(correct, labels)
    return Measured(
        labels=round(labels),
        accuracy=correct / labels,
        low=low,
        high=high,
        prediction_powered=_prediction_powered(counts, place),
        post_stratified=_post_stratified(counts, place),
    )


def member_accuracy(counts: Counts, place: Place, member: str) -> tuple[int, float | None]:
    """How many labels of a member there are in a window, and its accuracy by them."""
    outcomes = counts.by("outcome", "corolla_member_feedback_total", *place, member=member)
    labels = sum(outcomes.values())
    return round(labels), share(outcomes.get("correct", 0.0) / labels) if labels >= 1 else None


def _prediction_powered(counts: Counts, place: Place) -> PredictionPowered | None:
    moments = Moments.counted(counts.by("moment", "corolla_feedback_moment_total", *place))
    squares = counts.total(_SQUARES, *place)
    found = prediction_powered(
        images=counts.total(_SCORED, *place, method="confidence"),
        expected=counts.total(_CORRECT, *place, method="confidence"),
        squares=squares if squares > 0 else None,
        moments=moments,
    )
    if found is None:
        return None
    value, (low, high) = found
    return PredictionPowered(value=value, low=low, high=high, labels=moments.labels)


def _post_stratified(counts: Counts, place: Place) -> PostStratified | None:
    found: Stratified | None = post_stratified(
        counts.by("bin", "corolla_prediction_bin_total", *place),
        counts.by("bin", "corolla_feedback_bin_total", *place),
        counts.by("bin", "corolla_feedback_bin_correct_total", *place),
    )
    if found is None:
        return None
    low, high = found.interval
    value = min(max(share(found.accuracy), low), high)
    return PostStratified(value=value, low=low, high=high, covered=share(found.covered))
