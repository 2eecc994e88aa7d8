"""The metrics of labels that come back, defined once; `definitions` has all others."""

from serving.metrics.series import counter, histogram

_DELAY = (1, 10, 60, 300, 900, 3600, 4 * 3600, 86400, 3 * 86400, 7 * 86400, 30 * 86400)

KEPT = (
    counter(
        "corolla_feedback_submissions_total",
        "route status",
        "Labels received: matched (the first of a prediction), duplicate, corrected (it replaced another), "
        "conflict (it contradicts one that stands), late, invalid_token (the route is `unknown`) or "
        "invalid_class.",
    ),
    counter(
        "corolla_feedback_total",
        "route domain outcome",
        "Predictions with a label, by the first one that names a class: the answer was correct or incorrect.",
    ),
    counter(
        "corolla_feedback_corrections_total",
        "route domain from to",
        "Labels that replaced another and changed whether the answer was right, from one outcome to "
        "another: correct, incorrect, or unknown where nobody can tell. As corolla_feedback_total has the "
        "first labels, add those `to` an outcome and take off those `from` it.",
    ),
    counter(
        "corolla_feedback_unknown_total",
        "route domain",
        "Predictions whose first label says that the class cannot be told; corolla_feedback_total has them "
        "only if a class is named later.",
    ),
    counter(
        "corolla_member_feedback_total",
        "route domain member outcome",
        "As corolla_feedback_total, of each member: it was correct or incorrect; named routes of at most 16 "
        "members.",
    ),
    counter(
        "corolla_feedback_pair_total",
        "route pair outcome",
        "As corolla_feedback_total, of two members as a:b: both_correct, both_wrong, first_only (a was "
        "correct, b was not) or second_only; named routes of 2 to 8 members.",
    ),
    counter(
        "corolla_feedback_bin_total",
        "route domain bin",
        "As corolla_feedback_total, by the confidence of the answer, in the bins of "
        "corolla_prediction_bin_total.",
    ),
    counter(
        "corolla_feedback_bin_correct_total", "route domain bin", "Those of them whose answer was correct."
    ),
    counter(
        "corolla_feedback_bin_confidence_ratio_total",
        "route domain bin",
        "Their confidences, summed: in every bin of a calibrated route as many as are correct.",
    ),
    counter(
        "corolla_feedback_source_total",
        "route source",
        "Predictions that a source has labelled: gold, user, downstream or implicit.",
    ),
    counter(
        "corolla_feedback_moment_total",
        "route domain moment",
        "Sums over the labels of corolla_feedback_total that were requested, for prediction-powered "
        "accuracy and alarms: with w = 1 / inclusion probability and d = correct (1 or 0) - confidence, of w "
        "(w), w^2 (w2), w of wrong answers (wrong: over w, their share among all images), w d where d is "
        "positive (up) and -w d where it is negative (down), likewise with w^2 (w2_up, w2_down), and w^2 d^2 "
        "(w2_square).",
    ),
    histogram(
        "corolla_feedback_delay_seconds",
        "route",
        "Time from a prediction to its first label; 0 where clocks say that the label came before.",
        _DELAY,
    ),
)
"""These are counted in the transaction that keeps the labels, so a restart neither loses nor repeats one."""

FEEDBACK = (
    *KEPT,
    counter(
        "corolla_label_requests_total",
        "route domain reason",
        "Answers that asked for the true label: sampled (by `--label-share` of all) or disputed (drawn "
        "because the members disagree).",
    ),
)
