"""What the members say of each other."""

from deploy.grafana.panels import (
    TIMES,
    Query,
    Row,
    heat,
    increase,
    joined,
    lines,
    matrix,
    of_place,
    of_route,
    renamed,
    rows,
    steps,
)

_PAIR = "pair"
_CORRECT = 'outcome="correct"'


def _labels(outcome: str) -> str:
    """How many labels a pair has of one outcome; half a label more, so that no ratio is of nothing."""
    counted = increase("corolla_feedback_pair_total", f'outcome="{outcome}"', by=_PAIR, of="route")
    return f"(0.5 + {counted})"


_ALIKE = f"{_labels('both_correct')} * {_labels('both_wrong')}"
_APART = f"{_labels('first_only')} * {_labels('second_only')}"
_Q = f"({_ALIKE} - {_APART}) / ({_ALIKE} + {_APART})"
_WRONG = f"({_labels('both_wrong')} + {_labels('first_only')} + {_labels('second_only')})"


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
                _split(
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
            "Members that vote for the answer, one hour",
            "Their share, on average, beside that of the reference.",
            Query(of_place("route_domain:corolla_ensemble_agreement_ratio:mean1h"), "{{domain}}"),
            Query(f"max({of_route('corolla_reference_agreement_ratio')})", "reference"),
        ),
        lines(
            "Shape of the vote",
            "Images by how many members vote for the answer.",
            Query(increase("corolla_ensemble_predictions_total", by="consensus"), "{{consensus}}"),
            stacked=True,
        ),
        heat(
            "Mutual information of class and member",
            "Images by how far the members disagree, in nats.",
            "corolla_ensemble_mutual_information_nats",
            unit="none",
            width=6,
        ),
        lines(
            "Members that are overruled",
            "Images where a member's class is not the answer; and of the images that the task's base head "
            "answered too, those where its class is not.",
            Query(
                f"1 - {increase('corolla_member_vote_agreements_total', by='member')} "
                f"/ {increase('corolla_member_predictions_total', by='member')}",
                "{{member}}",
            ),
            Query(
                f"{increase('corolla_base_overrides_total', by='domain')} "
                f"/ {increase('corolla_frozen_predictions_total', by='domain')}",
                "base head, {{domain}}",
            ),
            width=6,
        ),
        lines(
            "Accuracy of each member, by labels",
            "Of whatever images were labelled.",
            Query(
                f"{increase('corolla_member_feedback_total', _CORRECT, by='member')}"
                f" / {increase('corolla_member_feedback_total', by='member')}",
                "{{member}}",
            ),
            width=6,
        ),
        rows(
            "Do pairs err together? (labels)",
            "Q: 1 where two members are right and wrong on the same images, 0 where they err independently."
            " Overlap: of the images that either gets wrong, those that both do.",
            Query(_Q),
            Query(f"{_labels('both_wrong')} / {_WRONG}"),
            width=6,
            transformations=(
                joined(_PAIR),
                renamed({"Value #A": "Q", "Value #B": "overlap"}, without=TIMES),
            ),
        ),
    ),
)
