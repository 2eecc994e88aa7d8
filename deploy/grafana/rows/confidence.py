"""How sure the answers are, and how often they are right when they are as sure as that."""

from deploy.grafana.panels import Query, Row, bars, heat, increase, lines, of_place, of_route

ROW = Row(
    "Confidence",
    (
        heat(
            "Confidence of the answers",
            "Images by the probability of their answer. Diamonds are answers of low confidence, by "
            "prediction id.",
            "corolla_prediction_confidence_ratio",
            unit="percentunit",
            exemplars=True,
        ),
        lines(
            "Mean confidence, one hour",
            "Beside that of the reference.",
            Query(
                of_place("route_domain:corolla_prediction_confidence_ratio:mean1h"),
                "{{domain}}",
            ),
            Query(f"max({of_route('corolla_reference_confidence_ratio')})", "reference"),
        ),
        lines(
            "Distance from the reference's confidence, one hour",
            "Kolmogorov-Smirnov: where the two distributions differ most, by how much.",
            Query(of_place("route_domain:corolla_prediction_confidence_ratio:ks1h"), "{{domain}}"),
        ),
        bars(
            "Reliability",
            "Of labelled images, by bin of confidence: how often the answer was right, and how sure it was "
            "on average. Equal bars are good calibration, whatever images were labelled.",
            Query(
                f"{increase('corolla_feedback_bin_correct_total', by='bin')} "
                f"/ {increase('corolla_feedback_bin_total', by='bin')}",
                "right",
            ),
            Query(
                f"{increase('corolla_feedback_bin_confidence_ratio_total', by='bin')} "
                f"/ {increase('corolla_feedback_bin_total', by='bin')}",
                "sure",
            ),
            by="bin",
            width=12,
        ),
        lines(
            "Calibration error, six hours",
            "Expected calibration error of labelled images: high with few labels.",
            Query(of_place("route_domain:corolla_feedback_bin:ece6h"), "{{domain}}"),
            width=12,
        ),
    ),
)
