"""What a label adds to the metrics: a pure function of its prediction and of what was decided."""

import math

from petl_vit.confidence import bin_of
from serving.feedback.decision import Decision
from serving.feedback.label import KeptLabel, Outcome, Status
from serving.metrics.additions import Additions
from serving.metrics.label_values import RouteLabels, outcome
from serving.metrics.prediction_ids import Prediction


def count_status(additions: Additions, route: str, status: Status) -> None:
    """One label was received."""
    additions.add("corolla_feedback_submissions_total", (route, str(status)))


def count_label(
    additions: Additions,
    place: RouteLabels,
    prediction: Prediction,
    label: KeptLabel,
    decision: Decision,
    *,
    delay_s: float,
) -> None:
    """A label was decided on.

    Args:
        place: Where its prediction counts.
        delay_s: From the prediction to now; clocks of two machines may differ, so it may be negative.
    """
    route = place.base[0]
    count_status(additions, route, decision.status)
    if decision.new_source:
        additions.add("corolla_feedback_source_total", (route, str(label.source)))
    if decision.before is None and math.isfinite(delay_s):
        additions.observe("corolla_feedback_delay_seconds", (route,), max(delay_s, 0.0))
    now = label.outcome(prediction.predicted)
    if decision.before is None and now is Outcome.UNKNOWN:
        additions.add("corolla_feedback_unknown_total", place.base)
    if decision.first_class:
        _first(additions, place, prediction, label, correct=now is Outcome.CORRECT)
    elif decision.status is Status.CORRECTED and decision.before is not None:
        then = decision.before.outcome(prediction.predicted)
        if then is not now:
            change = (*place.base, str(then), str(now))
            additions.add("corolla_feedback_corrections_total", change)


def _first(
    additions: Additions, place: RouteLabels, prediction: Prediction, label: KeptLabel, *, correct: bool
) -> None:
    additions.add("corolla_feedback_total", (*place.base, outcome(correct)))
    _bins(additions, place, prediction.confidence, correct)
    if prediction.inclusion:
        _moments(additions, place, 1 / prediction.inclusion, prediction.confidence, correct)
    votes = zip(prediction.members, prediction.votes, strict=False)
    right = {member: vote in label.truth for member, vote in votes if vote is not None}
    for member in place.members:
        if member[-1] in right:
            additions.add("corolla_member_feedback_total", (*member, outcome(right[member[-1]])))
    for first, second, pair in place.pairs:
        # A pair's label has its members in the order of the alphabet.
        one, other = sorted((place.members[first][-1], place.members[second][-1]))
        if one in right and other in right:
            shape = _SHAPES[right[one], right[other]]
            additions.add("corolla_feedback_pair_total", (place.base[0], pair[-1], shape))


_SHAPES = {
    (True, True): "both_correct",
    (False, False): "both_wrong",
    (True, False): "first_only",
    (False, True): "second_only",
}


def _bins(additions: Additions, place: RouteLabels, confidence: float, correct: bool) -> None:
    if not math.isfinite(confidence):
        return
    bin_ = place.bins[bin_of(confidence)]
    additions.add("corolla_feedback_bin_total", bin_)
    additions.add("corolla_feedback_bin_correct_total", bin_, int(correct))
    additions.add("corolla_feedback_bin_confidence_ratio_total", bin_, confidence)


def _moments(
    additions: Additions, place: RouteLabels, weight: float, confidence: float, correct: bool
) -> None:
    """What prediction-powered accuracy, its interval and alarms need of one requested label.

    Args:
        weight: So many images it speaks for.
    """
    if not math.isfinite(confidence):
        return
    surplus = correct - confidence
    up, down = max(surplus, 0.0), max(-surplus, 0.0)
    square = weight * weight
    moments = {
        "w": weight,
        "w2": square,
        "wrong": weight * (not correct),
        "up": weight * up,
        "down": weight * down,
        "w2_up": square * up,
        "w2_down": square * down,
        "w2_square": square * surplus * surplus,
    }
    for moment, amount in moments.items():
        additions.add("corolla_feedback_moment_total", (*place.base, moment), amount)
