"""What is estimated without labels, how far the estimates are to be believed, and the alarms' evidence."""

from deploy.grafana.panels import Query, Row, lines, numbers, of_evaluator, of_place, of_route, states, steps

ROW = Row(
    "Do we think it is right? Estimates without labels",
    (
        lines(
            "Estimated accuracy by method",
            "The evaluator's. No method is right under every shift: believe none where they spread.",
            Query(of_evaluator("corolla_estimated_accuracy_ratio"), "{{domain}} {{method}}"),
            Query(of_evaluator("corolla_accuracy_headline_ratio"), "{{domain}} median"),
            Query(of_evaluator("corolla_accuracy_headline_low_ratio"), "{{domain}} median low"),
            Query(of_evaluator("corolla_accuracy_headline_high_ratio"), "{{domain}} median high"),
            Query(of_route("route:corolla_reference_accuracy_ratio:max"), "reference"),
            width=12,
        ),
        lines(
            "Median of the estimates from counters, one hour",
            "By the rules of Prometheus, without the evaluator: confidence, votes and ATC, less what each "
            "is wrong by on the reference itself.",
            Query(of_place("route_domain:corolla_estimated_accuracy_ratio:median1h"), "{{domain}}"),
            Query(of_route("route:corolla_reference_accuracy_ratio:max"), "reference"),
            width=12,
        ),
        lines(
            "Spread of the estimates",
            "The highest less the lowest. Above 15 points none is to be trusted; a small spread proves "
            "nothing.",
            Query(of_evaluator("corolla_estimate_spread_ratio"), "{{domain}}"),
            Query(
                of_place("route_domain:corolla_estimated_accuracy_ratio:spread1h"),
                "{{domain}} from counters",
            ),
            width=6,
        ),
        numbers(
            "Agreement on the line (R²)",
            "Green: the agreement of pairs lies on a line, so that aline_s and aline_d may be believed.",
            Query(of_evaluator("corolla_agreement_line_r2_ratio"), "{{domain}}"),
            unit="none",
            steps=steps("red", (0.9, "yellow"), (0.95, "green")),
        ),
        lines(
            "Evidence of a shift",
            "As powers of ten. An alarm is raised where a curve reaches the threshold.",
            Query(of_evaluator("corolla_evidence"), "{{domain}} {{indicator}}"),
            Query(of_evaluator("corolla_evidence_threshold"), "{{domain}} threshold"),
            unit="none",
        ),
        states(
            "Alarms of the evaluator",
            "Red while an alarm is raised.",
            Query(of_evaluator("corolla_alarm"), "{{domain}} {{kind}}"),
            steps=steps("green", (1, "red")),
            width=6,
        ),
    ),
)
