"""What arrives, whatever is answered."""

from deploy.grafana.panels import Query, Row, heat, increase, lines, of_route

ROW = Row(
    "Inputs",
    (
        lines(
            "Foreign images",
            "Of the images whose frozen features were computed: those farther from the reference images "
            "than 95 % of these are.",
            Query(
                f"{increase('corolla_foreign_inputs_total', by='domain')} "
                f"/ {increase('corolla_feature_distance_ratio_count', by='domain')}",
                "{{domain}}",
            ),
            Query(
                "max(" + of_route("corolla_reference_rate_ratio", 'indicator="foreign"') + ")",
                "reference",
            ),
            width=6,
        ),
        heat(
            "Distance of features",
            "Images by their distance from the reference images; beyond 1 they are foreign.",
            "corolla_feature_distance_ratio",
            unit="none",
            width=6,
        ),
        lines(
            "Domains",
            "Shares of the images.",
            Query(increase("corolla_predictions_total", by="domain"), "{{domain}}"),
            stacked=True,
            width=6,
        ),
        lines(
            "Answered classes",
            "Shares of the answers, of the classes that have a series.",
            Query(increase("corolla_class_predictions_total", by="class", of="route"), "{{class}}"),
            stacked=True,
            width=6,
        ),
    ),
)
