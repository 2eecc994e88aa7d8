"""Accuracy by labels, from counters made by hand."""

import pytest
from scipy import stats

from serving.monitor.measured import measured, member_accuracy
from tests.serving.monitor.world import DOMAIN, ROUTE, Server, counted

PLACE = (ROUTE, DOMAIN)


def labelled(correct: int, incorrect: int) -> Server:
    server = Server()
    server.label(correct, incorrect)
    return server


def correction(server: Server, before: str, after: str, amount: float) -> None:
    labels = {"route": ROUTE, "domain": DOMAIN, "from": before, "to": after}
    server.count("corolla_feedback_corrections_total", amount, **labels)


def test_the_share_of_right_answers_has_wilsons_interval() -> None:
    found = measured(counted(labelled(80, 20)), PLACE)

    expected = stats.binomtest(80, 100).proportion_ci(0.95, method="wilson")
    assert found is not None
    assert (found.labels, found.accuracy) == (100, 0.8)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.prediction_powered, found.post_stratified) == (None, None)


def test_corrections_move_labels_from_one_outcome_to_the_other() -> None:
    server = labelled(80, 20)
    correction(server, "correct", "incorrect", 7)
    correction(server, "incorrect", "correct", 2)

    found = measured(counted(server), PLACE)

    assert found is not None
    assert found.accuracy == pytest.approx(0.75)


def test_labels_that_are_taken_back_no_longer_count() -> None:
    server = labelled(8, 2)
    correction(server, "correct", "unknown", 3)

    found = measured(counted(server), PLACE)

    assert found is not None
    assert (found.labels, found.accuracy) == (7, pytest.approx(5 / 7))


def test_a_wrong_answers_label_that_is_taken_back_and_given_again_is_one_wrong_answer() -> None:
    server = labelled(8, 2)
    correction(server, "incorrect", "unknown", 1)
    correction(server, "unknown", "incorrect", 1)

    found = measured(counted(server), PLACE)

    assert found is not None
    assert (found.labels, found.accuracy) == (10, 0.8)


def test_corrections_of_labels_before_the_window_keep_it_a_share() -> None:
    server = labelled(1, 0)
    correction(server, "correct", "incorrect", 5)

    found = measured(counted(server), PLACE)

    assert found is not None
    assert found.accuracy == 0


def test_no_label_is_no_measurement() -> None:
    assert measured(counted(Server()), PLACE) is None
    assert member_accuracy(counted(Server()), PLACE, "lora") == (0, None)


def test_requested_labels_and_bins_are_read() -> None:
    server = labelled(76, 24)
    place = {"route": ROUTE, "domain": DOMAIN}
    server.predict(1000, means={"confidence": 0.9})
    # 100 labels of weight 10, of which 76 are right, each expected with 0.9.
    for moment, amount in {
        "w": 1000.0,
        "w2": 10_000.0,
        "up": 76.0,
        "down": 216.0,
        "w2_up": 760.0,
        "w2_down": 2160.0,
        "w2_square": 100.0 * (76 * 0.01 + 24 * 0.81),
    }.items():
        server.count("corolla_feedback_moment_total", amount, moment=moment, **place)
    for bin_, images, labels, correct in (("4", 200, 40, 22), ("9", 800, 60, 54)):
        server.count("corolla_prediction_bin_total", images, bin=bin_, **place)
        server.count("corolla_feedback_bin_total", labels, bin=bin_, **place)
        server.count("corolla_feedback_bin_correct_total", correct, bin=bin_, **place)

    found = measured(counted(server), PLACE)

    assert found is not None
    assert found.prediction_powered is not None
    assert found.prediction_powered.value == pytest.approx(0.76)
    assert found.prediction_powered.labels == pytest.approx(100)
    assert found.prediction_powered.low < 0.7 < 0.8 < found.prediction_powered.high
    assert found.post_stratified is not None
    assert found.post_stratified.value == pytest.approx(0.83)
    assert found.post_stratified.low < 0.83 < found.post_stratified.high


def test_members_are_measured_by_their_own_outcomes() -> None:
    server = Server()
    for outcome, amount in (("correct", 3), ("incorrect", 1)):
        server.count(
            "corolla_member_feedback_total",
            amount,
            route=ROUTE,
            domain=DOMAIN,
            member="lora",
            outcome=outcome,
        )

    assert member_accuracy(counted(server), PLACE, "lora") == (4, 0.75)
