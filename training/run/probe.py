"""The base head of a task: a linear probe on the frozen features, the alpha = 0 end of every adapter.

Trained without drop path and augmentation, by multinomial logistic regression on standardised
features; the standardisation is folded into the head.

Shapes: n images, D width, C classes.
"""

import warnings
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from petl_vit.executors.functional import Functional
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT

_FAR_BELOW = 10.0
"""A class without images is that much less likely than the rarest other one, as a logit."""


@torch.inference_mode()
def features(vit: FrozenViT, batches: Iterable[Tensor], progress: Callable[[int], None]) -> Tensor:
    """Frozen features of batches of preprocessed images: [n, D] on the CPU."""
    run, batches_of_features = Functional(vit, []), []
    for images in batches:
        batches_of_features.append(vit.forward(images, run).float().cpu())
        progress(len(images))
    return torch.cat(batches_of_features)


def fit(inputs: Tensor, labels: Tensor, classes: int) -> LinearHead:
    """The probe on features [n, D] with labels [n] of two classes or more.

    A class without images has weights of zero and a logit far below the others' mean.
    """
    x = inputs.double().numpy()
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    with warnings.catch_warnings():  # an unconverged probe is still a valid end point
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=0.1, max_iter=1000).fit((x - mean) / std, labels.numpy())
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    if len(model.classes_) < classes:
        found, (weight, bias) = (weight, bias), _absent(classes, weight, bias)
        weight[model.classes_], bias[model.classes_] = found
    weight = weight / std
    bias = bias - weight @ mean
    return LinearHead(weight=torch.from_numpy(weight).float(), bias=torch.from_numpy(bias).float())


def _absent(
    classes: int, weight: NDArray[np.float64], bias: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows of classes without images: the mean of the others' logits is zero but for the biases."""
    return np.zeros((classes, weight.shape[1])), np.full(classes, bias.min() - _FAR_BELOW)
