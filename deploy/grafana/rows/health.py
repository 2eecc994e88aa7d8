"""Whether the numbers above can be believed: what is served, counted, refused and evaluated, and by what."""

from deploy.grafana.panels import (
    Query,
    Row,
    increase,
    lines,
    numbers,
    of_route,
    rate,
    renamed,
    rows,
    steps,
)

_HIDDEN = ("Time", "Value", "__name__", "job", "route")

ROW = Row(
    "Health",
    (
        lines(
            "Images in a second",
            "Answered, by domain.",
            Query(rate("corolla_predictions_total", by="domain"), "{{domain}}"),
            unit="short",
            width=6,
        ),
        lines(
            "Labels that were sent, by what became of them",
            "Of this route, and of prediction ids that are not valid (route unknown).",
            Query(
                'sum by (route, status) (increase(corolla_feedback_submissions_total{job="$job", '
                'route=~"$route|unknown"}[$window]))',
                "{{route}} {{status}}",
            ),
            unit="short",
            width=6,
        ),
        numbers(
            "Invalid scores",
            "Images for which a member gave NaN or infinity.",
            Query(increase("corolla_invalid_scores_total", by="member", of="route"), "{{member}}"),
            unit="short",
            steps=steps("green", (0.5, "red")),
        ),
        numbers(
            "Evaluator: last look",
            "Seconds since it last looked.",
            Query("time() - max(corolla_evaluator_last_run_timestamp_seconds)"),
            unit="s",
            steps=steps("green", (120, "yellow"), (600, "red")),
        ),
        numbers(
            "Evaluator: problems",
            "Servers that it cannot read, gaps, references that do not fit.",
            Query("max(corolla_evaluator_problems)"),
            unit="short",
            steps=steps("green", (1, "red")),
        ),
        rows(
            "Versions",
            "What each member resolves to on each replica.",
            Query(of_route("corolla_adapter_info")),
            width=12,
            transformations=(renamed({}, without=_HIDDEN),),
        ),
        rows(
            "References",
            "What each replica compares with; where they differ, nothing is estimated.",
            Query(of_route("corolla_reference_info")),
            width=12,
            transformations=(renamed({}, without=_HIDDEN),),
        ),
    ),
)
