import numpy as np
import pytest
import torch

from training.measure.calibration import calibrate, calibration_error, fit_temperature, measure


def drawn(temperature: float, n: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose labels are drawn from softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, 5, generator=generator)
    labels = torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator).flatten()
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found_again(temperature: float) -> None:
    logits, labels = drawn(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_the_temperature_is_where_no_neighbour_has_a_lower_likelihood_loss() -> None:
    logits, labels = drawn(1.7, 500)
    best = fit_temperature(logits, labels)
    losses = {t: measure(logits, labels, temperature=t)["nll"] for t in (best * 0.97, best, best * 1.03)}
    assert min(losses, key=lambda t: losses[t]) == best


def answered(n: int, wrong: int, margin: float = 10.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of three classes, `wrong` of which name another class by a hair."""
    labels = torch.arange(n) % 3
    logits = margin * torch.nn.functional.one_hot(labels, 3).float()
    logits[:wrong] = 0.001 * torch.nn.functional.one_hot((labels[:wrong] + 1) % 3, 3).float()
    return logits, labels


def test_a_set_without_a_hit_stays_within_bounds() -> None:
    logits, labels = answered(60, 0)
    assert 19 < fit_temperature(-logits, labels) <= 20.001


def test_a_temperature_is_not_fitted_to_few_images_or_to_images_without_an_error() -> None:
    few, faultless = (calibrate(*answered(n, wrong)) for n, wrong in ((49, 5), (60, 0)))
    assert (few.temperature, few.unfitted) == (1.0, "49 held-out images are fewer than 50")
    assert (faultless.temperature, faultless.unfitted) == (
        1.0,
        "there is no error among the 60 held-out images",
    )
    assert calibrate(*answered(60, 1)).unfitted == ""


@pytest.mark.parametrize("margin", [0.5, 3.0, 10.0])
def test_one_error_by_a_hair_makes_no_answer_surer_than_the_images_tell(margin: float) -> None:
    logits, labels = answered(60, 1, margin)
    temperature = calibrate(logits, labels).temperature
    assert measure(logits, labels, temperature=temperature)["confidence"] < 1 - 1 / 62


def test_the_calibration_error_is_that_of_a_plain_loop_over_bins() -> None:
    generator = torch.Generator().manual_seed(1)
    confidence = torch.rand(500, generator=generator, dtype=torch.float64)
    confidence[:2] = torch.tensor([0.0, 1.0])
    correct = torch.rand(500, generator=generator) < confidence**2
    expected, bins = 0.0, 15
    for k in range(bins):
        inside = [
            i
            for i, c in enumerate(confidence.tolist())
            if k / bins <= c < (k + 1) / bins or (k == 14 and c == 1)
        ]
        if inside:
            accuracy = np.mean([bool(correct[i]) for i in inside])
            expected += len(inside) / 500 * abs(accuracy - np.mean([float(confidence[i]) for i in inside]))
    assert calibration_error(confidence, correct, bins=bins) == pytest.approx(expected, abs=1e-12)


def test_calibrated_confidence_has_almost_no_error_and_temperature_changes_no_prediction() -> None:
    logits, labels = drawn(2.0)
    raw, calibrated = (measure(logits, labels, temperature=t) for t in (1.0, 2.0))
    assert calibrated["ece"] < 0.02 < raw["ece"]
    assert calibrated["accuracy"] == raw["accuracy"]
    assert calibrated["confidence"] == pytest.approx(calibrated["accuracy"], abs=0.02)
