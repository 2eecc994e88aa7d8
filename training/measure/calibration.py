"""How good and how honest the logits of held-out images are.

Shapes: n images, C classes. Temperature: Guo et al., arXiv 1706.04599.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

_LOWEST, _HIGHEST = 0.05, 20.0
FEWEST = 50
"""Images that a temperature is fitted to at least."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A temperature, and why it is 1 where the images do not tell.

    Attributes:
        unfitted: Why it was not fitted; empty where it was.
    """

    temperature: float
    unfitted: str = ""


def calibrate(logits: Tensor, labels: Tensor) -> Calibration:
    """The temperature of a set of images, 1 where a fit would say more than they do.

    Few images fit chance, and images without an error fit certainty: the likelihood rises as T falls to 0.
    """
    n = len(labels)
    if n < FEWEST:
        return Calibration(temperature=1.0, unfitted=f"{n} held-out images are fewer than {FEWEST}")
    if bool((logits.argmax(dim=-1) == labels).all()):
        return Calibration(temperature=1.0, unfitted=f"there is no error among the {n} held-out images")
    return Calibration(temperature=fit_temperature(logits, labels))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """argmin_T of the negative log-likelihood of softmax(logits / T), T in [0.05, 20].

    Labels are smoothed by 1 / (n + 2), as if one more image had any label: n images never tell that an answer
    is surer than that.
    """
    z, smoothing = logits.double(), 1 / (len(labels) + 2)

    def nll(log_t: float) -> float:
        return float(F.cross_entropy(z / torch.tensor(log_t).exp(), labels, label_smoothing=smoothing))

    bounds = (float(torch.tensor(_LOWEST).log()), float(torch.tensor(_HIGHEST).log()))
    minimum = minimize_scalar(nll, bounds=bounds, method="bounded")
    return float(torch.tensor(minimum.x).exp())


def calibration_error(confidence: Tensor, correct: Tensor, *, bins: int = 15) -> float:
    """Expected calibration error with equal-width bins, 0 to 1.

    Args:
        confidence: [n] in [0, 1].
        correct: [n] bool.
    """
    edges = (confidence * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64)
    gap.index_add_(0, edges, correct.double() - confidence.double())
    return float(gap.abs().sum() / len(confidence))


def measure(logits: Tensor, labels: Tensor, *, temperature: float) -> dict[str, float]:
    """Accuracy, mean confidence, NLL and calibration error of softmax(logits / temperature)."""
    z = logits.double() / temperature
    confidence, predicted = z.softmax(dim=-1).max(dim=-1)
    correct = predicted == labels
    return {
        "accuracy": float(correct.double().mean()),
        "confidence": float(confidence.mean()),
        "nll": float(F.cross_entropy(z, labels)),
        "ece": calibration_error(confidence, correct),
    }
