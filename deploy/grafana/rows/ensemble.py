"""What the members say of each other."""

from deploy.grafana.panels import Query, Row, heat, increase, lines, matrix, of_route, rows, steps

_PAIR = "pair"
_OUTCOMES = {
    outcome: f"(0.5 + {increase('corolla_feedback_pair_total', f'outcome={chr(34)}{outcome}{chr(34)}', by=_PAIR)})"
    for outcome in ("both_correct", "both_wrong", "first_only", "second_only")
}
_ALIKE = f"{_OUTCOMES['both_correct']} * {_OUTCOMES['both_wrong']}"
_APART = f"{_OUTCOMES['first_only']} * {_OUTCOMES['second_only']}"
_Q = f"({_ALIKE} - {_APART}) / ({_ALIKE} + {_APART})"
_WRONG = f"({_OUTCOMES['both_wrong']} + {_OUTCOMES['first_only']} + {_OUTCOMES['second_only']})"


def _split(promql: str) -> str:
    """The pair `a:b` as the labels `first` and `second`."""
    first = f'label_replace({promql}, "first", "$1", "pair", "(.*):.*")'
    return f'label_replace({first}, "second", "$1", "pair", ".*:(.*)")'


ROW = Row(
    "Ensemble",
    (
        rows(
            "Agreement of pairs, less the reference's",
            "0: two members name the same class as often as on the reference. Red: 5 points less.",
            Query(
                promql=_split(
                    f"{increase('corolla_ensemble_pair_agreements_total', by=_PAIR)} "
                    f"/ {increase('corolla_ensemble_pair_comparisons_total', by=_PAIR)} "
                    f"- max by (pair) ({of_route('corolla_reference_pair_agreement_ratio')})"
                )
            ),
            unit="percentunit",
            steps=steps("red", (-0.05, "yellow"), (-0.02, "green")),
            transformations=(matrix("first", "second"),),
        ),
        lines(
            "Shape of the vote",
            "Images by how many members vote for the answer.",
            Query(promql=increase("corolla_ensemble_predictions_total", by="consensus"), legend="{{consensus}}"),
            stacked=True,
        ),
        heat(
            "Mutual information of class and member",
            "Images by how far the members disagree, in nats.",
            Query(promql=increase("corolla_ensemble_mutual_information_nats_bucket", by="le"), legend="{{le}}"),
            unit="none",
        ),
        lines(
            "Members that are overruled",
            "Images where a member's class is not the answer; and of the images that the task's base head answered "
            "too, those where its class is not.",
            Query(
                promql=f"1 - {increase('corolla_member_vote_agreements_total', by='member')} "
                f"/ {increase('corolla_member_predictions_total', by='member')}",
                legend="{{member}}",
            ),
            Query(
                promql=f"{increase('corolla_base_overrides_total', by='domain')} "
                f"/ {increase('corolla_frozen_predictions_total', by='domain')}",
                legend="base head, {{domain}}",
            ),
        ),
        lines(
            "Accuracy of each member, by labels",
            "Of whatever images were labelled.",
            Query(
                promql=f"{increase('corolla_member_feedback_total', 'outcome=' + chr(34) + 'correct' + chr(34), by='member')}"
                f" / {increase('corolla_member_feedback_total', by='member')}",
                legend="{{member}}",
            ),
        ),
        rows(
            "Do pairs err together? (labels)",
            "Q: 1 where two members are right and wrong on the same images, 0 where they err independently. Overlap: "
            "of the images that either gets wrong, those that both do.",
            Query(promql=_Q),
            Query(promql=f"{_OUTCOMES['both_wrong']} / {_WRONG}"),
        ),
    ),
)
