"""What a label means beside others of its prediction."""

from itertools import permutations

import pytest

from serving.feedback.decision import MAX_KEPT, Decision, decide
from serving.feedback.label import KeptLabel, Outcome, Source

GOLD, USER, DOWNSTREAM, IMPLICIT = Source.GOLD, Source.USER, Source.DOWNSTREAM, Source.IMPLICIT


def said(*truth: int, source: Source = USER, revision: int = 0) -> KeptLabel:
    return KeptLabel(truth=truth, source=source, revision=revision)


def decided(*labels: KeptLabel) -> list[Decision]:
    """What becomes of labels of one prediction that come one after another."""
    history: list[KeptLabel] = []
    decisions = []
    for label in labels:
        decisions.append(decide(history, label))
        if decisions[-1].keep:
            history.append(label)
    return decisions


def statuses(*labels: KeptLabel) -> list[str]:
    return [str(decision.status) for decision in decided(*labels)]


def test_the_first_label_is_matched_and_the_same_again_is_a_duplicate() -> None:
    assert statuses(said(1), said(1), said(1)) == ["matched", "duplicate", "duplicate"]


def test_another_truth_needs_a_higher_revision() -> None:
    assert statuses(said(1), said(2), said(2, revision=1)) == ["matched", "conflict", "corrected"]
    assert statuses(said(1, revision=3), said(2, revision=2)) == ["matched", "conflict"]


def test_a_repeated_truth_of_a_higher_revision_moves_the_revision_on() -> None:
    again = statuses(said(1), said(1, revision=5), said(2, revision=4), said(2, revision=6))
    assert again == ["matched", "duplicate", "conflict", "corrected"]


def test_a_better_source_corrects_and_a_worse_one_conflicts() -> None:
    assert statuses(said(1), said(2, source=GOLD)) == ["matched", "corrected"]
    assert statuses(said(1), said(2, source=IMPLICIT, revision=9)) == ["matched", "conflict"]
    assert statuses(said(1, source=DOWNSTREAM), said(1, source=GOLD)) == ["matched", "duplicate"]


def test_a_worse_sources_label_is_kept_so_that_it_is_known_again() -> None:
    kept = decided(said(1, source=GOLD), said(2), said(2), said(1), said(1, revision=1))

    assert [str(each.status) for each in kept] == [
        "matched",
        "conflict",
        "duplicate",
        "conflict",
        "duplicate",
    ]
    assert [each.keep for each in kept] == [True, True, False, False, True]
    assert [each.new_source for each in kept] == [True, True, False, False, False]
    assert [each.stands for each in kept] == [True, False, False, False, False]


def test_unknown_is_replaced_by_a_class_without_a_revision_and_not_the_other_way_round() -> None:
    first, then = decided(said(), said(1))

    assert [str(first.status), str(then.status)] == ["matched", "matched"]
    assert [first.first_class, then.first_class] == [False, True]
    assert statuses(said(1), said(), said(revision=1), said(2, revision=1)) == [
        "matched",
        "conflict",
        "corrected",
        "corrected",
    ]


def test_a_class_after_two_changes_is_not_the_first_again() -> None:
    decisions = decided(said(1), said(revision=1), said(2, revision=2))
    assert [each.first_class for each in decisions] == [True, False, False]


def test_a_set_is_the_same_label_only_with_the_same_classes() -> None:
    assert statuses(said(1, 2), said(1, 2), said(1)) == ["matched", "duplicate", "conflict"]


@pytest.mark.parametrize(
    ("truth", "outcome"), [((1,), "correct"), ((2,), "incorrect"), ((0, 1), "correct"), ((), "unknown")]
)
def test_a_label_says_whether_the_answer_was_right(truth: tuple[int, ...], outcome: str) -> None:
    assert said(*truth).outcome(predicted=1) is Outcome(outcome)


def test_the_same_label_stands_whatever_came_first() -> None:
    labels = [said(1), said(2, source=GOLD), said(3, source=IMPLICIT), said(4, source=GOLD, revision=1)]
    for order in permutations(labels):
        standing = [label for label, each in zip(order, decided(*order), strict=True) if each.stands]
        assert standing[-1] == labels[3]


def test_whoever_changes_their_mind_for_ever_is_not_listened_to() -> None:
    decisions = decided(*(said(number % 2, revision=number) for number in range(MAX_KEPT + 1)))

    assert str(decisions[-2].status) == "corrected"
    assert (str(decisions[-1].status), decisions[-1].keep) == ("conflict", False)
    assert f"{MAX_KEPT} labels" in decisions[-1].message
