import pytest
import torch

from petl_vit.preprocess import normalise
from petl_vit.vit import FrozenViT
from tests.training.conftest import SPEC
from training.data.loading import Resized, sent
from training.data.pixels import load_pixels
from training.data.records import Dataset


def test_a_set_that_is_too_large_to_keep_gives_the_same_batches(dataset: Dataset, vit: FrozenViT) -> None:
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


def test_a_batch_is_the_normalised_pixels(dataset: Dataset, vit: FrozenViT) -> None:
    images = Resized(dataset, SPEC, vit)
    expected = normalise(load_pixels(dataset, SPEC), SPEC)
    assert torch.equal(torch.cat([images.batch(part) for part in images.batches(7)]), expected)
    assert torch.equal(images.labels, dataset.labels)


def test_what_is_on_the_device_already_is_not_sent_again() -> None:
    tensor = torch.arange(3)
    assert sent(tensor, torch.device("cpu")) is tensor


@pytest.mark.gpu
def test_batches_on_a_gpu_are_those_of_the_host(dataset: Dataset, vit: FrozenViT) -> None:
    device, indices = torch.device("cuda"), torch.arange(16)
    there = Resized(dataset, SPEC, vit.to(device=device), augmentation="crop-flip")
    here = Resized(dataset, SPEC, vit, augmentation="crop-flip")
    for _ in range(3):  # pinned memory is used again while copies may still run
        sent_there = there.batch(indices, torch.Generator().manual_seed(4))
        assert sent_there.device.type == "cuda"
        expected = here.batch(indices, torch.Generator().manual_seed(4))
        assert torch.allclose(sent_there.cpu(), expected, atol=1e-6)
