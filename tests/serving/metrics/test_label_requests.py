"""Which answers ask for their label."""

import math

import pytest

from serving.metrics.label_requests import Sampling

NONCES = [f"{number:016x}" for number in range(10_000)]


def drawn(sampling: Sampling, dispute: float) -> list[tuple[str, float]]:
    requests = (sampling.draw(nonce, dispute) for nonce in NONCES)
    return [(request.reason, request.probability) for request in requests if request is not None]


@pytest.mark.parametrize("dispute", [0.0, 0.5, 1.0])
def test_images_are_drawn_as_often_as_their_probability_says(dispute: float) -> None:
    found = drawn(Sampling(share=0.02, boost=9), dispute)

    probability = 0.02 * (1 + 9 * dispute)
    error = math.sqrt(len(NONCES) * probability * (1 - probability))
    assert [*{each for _, each in found}] == pytest.approx([probability])
    assert abs(len(found) - len(NONCES) * probability) < 4 * error
    sampled = sum(reason == "sampled" for reason, _ in found)
    assert abs(sampled - len(NONCES) * 0.02) < 4 * math.sqrt(len(NONCES) * 0.02)
    assert (sampled == len(found)) is (dispute == 0)


def test_labels_of_drawn_images_weighed_by_their_probability_speak_for_all() -> None:
    """Disputed images are answered worse, and are drawn more often: the weights undo that."""
    sampling = Sampling(share=0.05, boost=10)
    correct = {nonce: number % 10 != 0 or number % 20 == 0 for number, nonce in enumerate(NONCES)}
    weights = {True: 0.0, False: 0.0}
    for number, nonce in enumerate(NONCES):
        request = sampling.draw(nonce, dispute=1.0 if number % 10 == 0 else 0.0)
        if request is not None:
            weights[correct[nonce]] += 1 / request.probability

    assert weights[True] / sum(weights.values()) == pytest.approx(0.95, abs=0.015)


def test_a_prediction_is_drawn_alike_on_every_replica() -> None:
    sampling = Sampling(share=0.1, boost=1)
    assert drawn(sampling, 0.3) == drawn(Sampling(share=0.1, boost=1), 0.3)


def test_no_share_draws_none_and_a_probability_is_never_more_than_one() -> None:
    assert drawn(Sampling(share=0.0, boost=100), 1.0) == []
    assert {each for _, each in drawn(Sampling(share=0.9, boost=100), 1.0)} == {1.0}
    assert {each for _, each in drawn(Sampling(share=1e-9, boost=0), 0.0)} <= {1e-9}
