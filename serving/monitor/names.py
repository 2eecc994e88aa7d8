"""The metrics that the evaluator reads, and which of their labels tell series apart."""

COUNTERS = (
    "corolla_base_overrides_total",
    "corolla_class_predictions_total",
    "corolla_ensemble_agreement_ratio_count",
    "corolla_ensemble_agreement_ratio_sum",
    "corolla_ensemble_pair_agreements_total",
    "corolla_ensemble_pair_comparisons_total",
    "corolla_ensemble_predictions_total",
    "corolla_estimated_correct_squares_total",
    "corolla_estimated_correct_total",
    "corolla_estimated_predictions_total",
    "corolla_feature_distance_ratio_count",
    "corolla_feedback_bin_correct_total",
    "corolla_feedback_bin_total",
    "corolla_feedback_corrections_total",
    "corolla_feedback_moment_total",
    "corolla_feedback_total",
    "corolla_foreign_inputs_total",
    "corolla_frozen_predictions_total",
    "corolla_member_feedback_total",
    "corolla_member_predictions_total",
    "corolla_member_vote_agreements_total",
    "corolla_prediction_bin_total",
    "corolla_prediction_confidence_ratio_count",
    "corolla_prediction_confidence_ratio_sum",
    "corolla_predictions_total",
)
"""They only rise, but for a restart."""

DURABLE = frozenset(name for name in COUNTERS if "_feedback_" in name)
"""Those that a server has again after a restart, because labels are stored."""

START = "process_start_time_seconds"
"""The gauge that tells a restart from a counter that fell."""

GAUGES = (
    "corolla_reference_accuracy_ratio",
    "corolla_reference_agreement_ratio",
    "corolla_reference_bin_ratio",
    "corolla_reference_confidence_ratio",
    "corolla_reference_estimate_ratio",
    "corolla_reference_images",
    "corolla_reference_info",
    "corolla_reference_member_accuracy_ratio",
    "corolla_reference_pair_agreement_ratio",
    "corolla_reference_rate_ratio",
    "corolla_reference_stale",
    START,
)

NAMES = frozenset((*COUNTERS, *GAUGES))

LABELS = frozenset(
    (
        *("bin", "class", "consensus", "data", "digest", "domain", "from", "indicator"),
        *("member", "method", "moment", "outcome", "pair", "reference", "route", "to"),
    )
)
"""The labels that servers give; any other is Prometheus' and says which server it is."""
