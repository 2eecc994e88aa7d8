"""What true labels say: the only panels that know whether the answers are right."""

from deploy.grafana.panels import Query, Row, increase, lines, of_evaluator, of_place, of_route, rate, rows

_WEIGHTED = of_place("route_domain:corolla_feedback_accuracy_ratio:poststratified6h")
_ERROR = of_place("route_domain:corolla_feedback_accuracy_ratio:poststratified_stderr6h")
_REFERENCE = Query(promql=of_route("route:corolla_reference_accuracy_ratio:max"), legend="reference")

ROW = Row(
    "Is it right? What labels say",
    (
    lines(
        "Accuracy by labels, six hours",
        "Weighted: each bin of confidence weighs what it has of all images, with its band at 99 %. As labelled: the "
        "share of the labels that say the answer was right, whatever images people chose to label.",
        Query(promql=_WEIGHTED, legend="{{domain}} weighted"),
        Query(promql=f"clamp_min({_WEIGHTED} - 2.58 * {_ERROR}, 0)", legend="{{domain}} low"),
        Query(promql=f"clamp_max({_WEIGHTED} + 2.58 * {_ERROR}, 1)", legend="{{domain}} high"),
        Query(
            promql=of_place("route_domain:corolla_feedback_correct_per_feedback:ratio_increase6h"),
            legend="{{domain}} as labelled",
        ),
        _REFERENCE,
        width=12,
    ),
    lines(
        "Accuracy from labels and predictions",
        "The evaluator's: the predictions for all images, corrected by the labels that answers asked for, with the "
        "interval at 95 %.",
        Query(promql=of_evaluator("corolla_prediction_powered_accuracy_ratio"), legend="{{domain}}"),
        Query(promql=of_evaluator("corolla_prediction_powered_accuracy_low_ratio"), legend="{{domain}} low"),
        Query(promql=of_evaluator("corolla_prediction_powered_accuracy_high_ratio"), legend="{{domain}} high"),
        _REFERENCE,
        width=12,
    ),
    rows(
        "Alarms that are raised",
        "Of rules.yml: those that page are of labels.",
        Query(
            promql='count by (alertname, severity, route, domain) (ALERTS{alertname=~"Corolla.*", alertstate="firing"})'
        ),
        width=8,
    ),
    lines(
        "Labels in an hour",
        "First labels of images, and the answers that asked for one.",
        Query(promql=rate("corolla_feedback_total", by="domain") + " * 3600", legend="{{domain}}"),
        Query(promql=rate("corolla_label_requests_total", by="domain") + " * 3600", legend="{{domain}} asked for"),
        unit="short",
        width=8,
    ),
    lines(
        "From a prediction to its label",
        "The time that half of the labels take at most, and nine of ten.",
        *(
            Query(
                promql=f"histogram_quantile({share}, "
                + increase("corolla_feedback_delay_seconds_bucket", by="le", of="route")
                + ")",
                legend=legend,
            )
            for share, legend in ((0.5, "half"), (0.9, "nine of ten"))
        ),
        unit="s",
        width=8,
    ),
    ),
)
