"""The PromQL of docs/metrics.md. tests/docs/test_queries.py runs all of it over two replicas."""

from collections.abc import Mapping

QUERIES: Mapping[str, str] = {
    "Accuracy of labelled images, by route and domain": """
sum by (route, domain) (increase(corolla_feedback_total{outcome="correct"}[1d]))
  / sum by (route, domain) (increase(corolla_feedback_total[1d]))
""",
    "The same by the labels that stand now, after corrections": """
(
  sum by (route, domain) (increase(corolla_feedback_total{outcome="correct"}[1d]))
    + sum by (route, domain) (increase(corolla_feedback_corrections_total{to="correct"}[1d]))
    - sum by (route, domain) (increase(corolla_feedback_corrections_total{from="correct"}[1d]))
) / (
  sum by (route, domain) (increase(corolla_feedback_total[1d]))
    + sum by (route, domain) (increase(corolla_feedback_corrections_total{from="unknown"}[1d]))
    - sum by (route, domain) (increase(corolla_feedback_corrections_total{to="unknown"}[1d]))
)
""",
    "Calibration error of labelled images, in ten bins of confidence": """
sum by (route, domain) (abs(
  sum by (route, domain, bin) (increase(corolla_feedback_bin_correct_total[1d]))
    - sum by (route, domain, bin) (increase(corolla_feedback_bin_confidence_ratio_total[1d]))
)) / sum by (route, domain) (increase(corolla_feedback_bin_total[1d]))
""",
    "Labels that were not taken, and why": """
sum by (route, status) (
  increase(corolla_feedback_submissions_total{status=~"conflict|late|invalid_.*"}[1d])
)
""",
    "Accuracy of each member of an ensemble": """
sum by (route, member) (increase(corolla_member_feedback_total{outcome="correct"}[1d]))
  / sum by (route, member) (increase(corolla_member_feedback_total[1d]))
""",
    "Labels of each member by the version that it resolves to now; replicas may differ, hence `instance`": """
sum by (route, member, version, outcome) (
  increase(corolla_member_feedback_total[1d])
    * on (job, instance, route, member) group_left (version) corolla_adapter_info
)
""",
    "Members whose version is not the same on all replicas": """
count by (route, member) (count by (route, member, version) (corolla_adapter_info)) > 1
""",
    "Mean confidence": """
sum by (route, domain) (rate(corolla_prediction_confidence_ratio_sum[1h]))
  / sum by (route, domain) (rate(corolla_prediction_confidence_ratio_count[1h]))
""",
    "Accuracy that each method expects without labels": """
sum by (route, domain, method) (increase(corolla_estimated_correct_total[1h]))
  / sum by (route, domain, method) (increase(corolla_estimated_predictions_total[1h]))
""",
    "Standard error of the accuracy that confidences expect": """
sqrt(
  (
    sum by (route, domain) (increase(corolla_estimated_correct_squares_total[1h]))
    - sum by (route, domain) (increase(corolla_estimated_correct_total{method="confidence"}[1h])) ^ 2
    / sum by (route, domain) (increase(corolla_estimated_predictions_total{method="confidence"}[1h]))
  )
) / sum by (route, domain) (increase(corolla_estimated_predictions_total{method="confidence"}[1h]))
""",
    "How many inputs are unlike those of the reference, of which it is 5 %": """
sum by (route, domain) (increase(corolla_foreign_inputs_total[1h]))
  / sum by (route, domain) (increase(corolla_feature_distance_ratio_count[1h]))
""",
    "How often a route answers another class than the base head alone": """
sum by (route, domain) (increase(corolla_base_overrides_total[1h]))
  / sum by (route, domain) (increase(corolla_frozen_predictions_total[1h]))
""",
    "How often a member is overridden by the answer": """
1
  - sum by (route, domain, member) (increase(corolla_member_vote_agreements_total[1h]))
  / sum by (route, domain, member) (increase(corolla_member_predictions_total[1h]))
""",
    "The five classes that each route answered most often": """
topk by (route) (5, sum by (route, class) (increase(corolla_class_predictions_total[1h])))
""",
    "How often two members name the same class": """
sum by (route, domain, pair) (increase(corolla_ensemble_pair_agreements_total[1h]))
  / sum by (route, domain, pair) (increase(corolla_ensemble_pair_comparisons_total[1h]))
""",
    "Members that a cascade asks for an image, on average": """
sum by (route, domain) (rate(corolla_cascade_members_asked_sum[1h]))
  / sum by (route, domain) (rate(corolla_cascade_members_asked_count[1h]))
""",
    "How often a cascade answers as all its members would": """
sum by (route, domain) (increase(corolla_cascade_full_agreements_total[1d]))
  / sum by (route, domain) (increase(corolla_cascade_full_predictions_total[1d]))
""",
    "Cascades whose thresholds are void on a replica": """
max by (route) (corolla_cascade_void) == 1
""",
    "Named routes of which nothing can be estimated, for want of a reference that fits": """
max by (route) (corolla_reference_images) == 0
""",
    "Named routes that replicas compare with different references": """
count by (route) (count by (route, digest, data, reference) (corolla_reference_info)) > 1
""",
    "Confidence above or below that of the reference": """
sum by (route, domain) (rate(corolla_prediction_confidence_ratio_sum[1h]))
  / sum by (route, domain) (rate(corolla_prediction_confidence_ratio_count[1h]))
  - on (route) group_left () avg by (route) (corolla_reference_confidence_ratio)
""",
    "Time in which 99 % of the calls were answered": """
histogram_quantile(0.99, sum by (method, le) (rate(corolla_request_duration_seconds_bucket[5m])))
""",
    "Replicas that do not serve": """
corolla_ready == 0
""",
}

ABSENT: Mapping[str, str] = {
    "Images of an hour, with the first ones of series that appeared in it": """
sum by (route, domain) (
  increase(corolla_predictions_total[1h])
    + (min_over_time(corolla_predictions_total[1h]) unless corolla_predictions_total offset 1h)
  or increase(corolla_predictions_total[1h])
)
""",
    "An alert on something rare, which also sees the series appear": """
increase(corolla_invalid_scores_total[10m]) > 0
  or (corolla_invalid_scores_total > 0 unless corolla_invalid_scores_total offset 10m)
""",
    "Named routes without an image today": """
count by (route) (corolla_adapter_info)
  unless on (route) sum by (route) (increase(corolla_predictions_total[1d])) > 0
""",
    "0 instead of nothing": """
sum(rate(corolla_predictions_total{route="digits/best"}[5m])) or vector(0)
""",
}
