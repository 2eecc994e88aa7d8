import torch

from petl_vit.preprocess import normalise
from petl_vit.vit import FrozenViT
from tests.training.conftest import SPEC
from training import data
from training.images import Resized


def test_a_set_that_is_too_large_to_keep_gives_the_same_batches(
    dataset: data.Dataset, vit: FrozenViT
) -> None:
    ready: list[int] = []
    kept = Resized(dataset, SPEC, vit, augmentation="crop-flip", advance=ready.append)
    decoded = Resized(dataset, SPEC, vit, augmentation="crop-flip", kept_bytes=3 * 32 * 32 * 60 - 1)
    assert (kept.kept, decoded.kept) == (True, False)
    assert sum(ready) == len(kept) == len(decoded) == 60
    indices = torch.tensor([7, 3, 3, 59])
    assert torch.equal(kept.batch(indices), decoded.batch(indices))
    one, two = (images.batch(indices, torch.Generator().manual_seed(4)) for images in (kept, decoded))
    assert torch.equal(one, two)
    assert not torch.equal(one, kept.batch(indices))


def test_a_batch_is_the_normalised_pixels(dataset: data.Dataset, vit: FrozenViT) -> None:
    images = Resized(dataset, SPEC, vit)
    expected = normalise(data.tensors(dataset, SPEC), SPEC)
    assert torch.equal(torch.cat([images.batch(part) for part in images.batches(7)]), expected)
    assert torch.equal(images.labels, dataset.labels)
