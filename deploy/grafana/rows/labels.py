"""What true labels say: the only panels that know whether the answers are right."""

from deploy.grafana.panels import (
    Query,
    Row,
    increase,
    lines,
    of_evaluator,
    of_place,
    of_route,
    rate,
    renamed,
    rows,
)

_WEIGHTED = of_place("route_domain:corolla_feedback_accuracy_ratio:poststratified6h")
_ERROR = of_place("route_domain:corolla_feedback_accuracy_ratio:poststratified_stderr6h")
_FIRING = 'ALERTS{alertname=~"Corolla.*", alertstate="firing"}'
_REFERENCE = Query(of_route("route:corolla_reference_accuracy_ratio:max"), "reference")

ROW = Row(
    "Is it right? What labels say",
    (
        lines(
            "Accuracy by labels, six hours",
            "Weighted: each bin of confidence weighs what it has of all images, with its band at 99 %. As "
            "labelled: the share of the labels that say the answer was right, whatever images people chose "
            "to label.",
            Query(_WEIGHTED, "{{domain}} weighted"),
            Query(f"clamp_min({_WEIGHTED} - 2.58 * {_ERROR}, 0)", "{{domain}} low"),
            Query(f"clamp_max({_WEIGHTED} + 2.58 * {_ERROR}, 1)", "{{domain}} high"),
            Query(
                of_place("route_domain:corolla_feedback_correct_per_feedback:ratio_increase6h"),
                "{{domain}} as labelled",
            ),
            _REFERENCE,
            width=12,
        ),
        lines(
            "Accuracy from labels and predictions",
            "The evaluator's: the predictions for all images, corrected by the labels that answers asked "
            "for, with the interval at 95 %.",
            Query(of_evaluator("corolla_prediction_powered_accuracy_ratio"), "{{domain}}"),
            Query(of_evaluator("corolla_prediction_powered_accuracy_low_ratio"), "{{domain}} low"),
            Query(
                of_evaluator("corolla_prediction_powered_accuracy_high_ratio"),
                "{{domain}} high",
            ),
            _REFERENCE,
            width=12,
        ),
        rows(
            "Alarms that are raised",
            "Of rules.yml: those that page are of labels.",
            Query(f"count by (alertname, severity, route, domain) ({_FIRING})"),
            transformations=(renamed({}, without=("Time", "Value")),),
            width=8,
        ),
        lines(
            "Labels in an hour",
            "First labels of images, and the answers that asked for one.",
            Query(rate("corolla_feedback_total", by="domain") + " * 3600", "{{domain}}"),
            Query(
                rate("corolla_label_requests_total", by="domain") + " * 3600",
                "{{domain}} asked for",
            ),
            unit="short",
            width=8,
        ),
        lines(
            "From a prediction to its label",
            "The time that half of the labels take at most, and nine of ten.",
            *(
                Query(
                    f"histogram_quantile({share}, "
                    + increase("corolla_feedback_delay_seconds_bucket", by="le", of="route")
                    + ")",
                    legend,
                )
                for share, legend in ((0.5, "half"), (0.9, "nine of ten"))
            ),
            unit="s",
            width=8,
        ),
    ),
)
