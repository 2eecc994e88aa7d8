import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from petl_vit.vit import FrozenViT
from training.data.loading import Resized
from training.run import probe


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_folded_head_predicts_as_scikit_learn_does_on_standardised_features(classes: int) -> None:
    digits = load_digits()
    chosen = np.flatnonzero(digits.target < classes)[:200]
    x, y = digits.data[chosen] * 3 + 40, digits.target[chosen]  # neither centred nor scaled
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(x), y)
    expected = model.predict_proba(scaler.transform(x))
    head = probe.fit(torch.from_numpy(x).float(), torch.from_numpy(y), classes)
    assert head.weight.shape == (classes, 64)
    assert (head.weight.dtype, head.bias.dtype) == (torch.float32, torch.float32)
    found = head.logits(torch.from_numpy(x).float()).softmax(dim=-1).numpy()
    assert np.abs(found - expected).max() < 2e-3
    assert (found.argmax(axis=1) == y).mean() > 0.97


def test_a_constant_feature_does_no_harm() -> None:
    x = torch.cat([torch.randn(40, 3), torch.full((40, 1), 7.0)], dim=1)
    head = probe.fit(x, (x[:, 0] > 0).long(), 2)
    assert head.weight.isfinite().all()
    assert (head.logits(x).argmax(dim=1) == (x[:, 0] > 0)).double().mean() > 0.8


def test_the_same_features_give_the_same_head() -> None:
    x, y = torch.randn(50, 8), torch.arange(50) % 3
    one, two = probe.fit(x, y, 3), probe.fit(x, y, 3)
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)


def test_features_do_not_depend_on_the_batches_they_come_in(images: Resized, vit: FrozenViT) -> None:
    done: list[int] = []
    small = probe.features(vit, (images.batch(i) for i in images.batches(7)), done.append)
    large = probe.features(vit, (images.batch(i) for i in images.batches(64)), done.append)
    assert small.shape == (60, vit.arch.width)
    assert sum(done) == 120
    assert torch.allclose(small, large, atol=1e-5)


@pytest.mark.parametrize("present", [(0, 3), (1, 2, 4)])
def test_classes_without_images_are_never_the_answer(present: tuple[int, ...]) -> None:
    y = torch.tensor(present)[torch.arange(60) % len(present)]
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) + y[:, None]
    head = probe.fit(x, y, 5)
    assert head.weight.shape == (5, 8)
    probabilities = head.logits(x).softmax(dim=1)
    absent = [label for label in range(5) if label not in present]
    assert float(probabilities[:, absent].max()) < 1e-3
    one = probe.fit(x, torch.unique(y, return_inverse=True)[1], len(present))
    assert torch.allclose(head.weight[list(present)], one.weight, atol=1e-5)
