"""Several models over images: each is what it is alone, and every image is computed once."""

import torch

from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.logits import images_at_once, logits_of_images, logits_over
from tests.petl_vit.adapters import adapter_of, images_of
from tests.petl_vit.backbones import family, relative


def test_every_model_answers_as_it_does_alone() -> None:
    vit, _ = family("plain")
    images, batch = images_of(vit), Batch(vit)
    models = [Model([Term(adapter=adapter_of(name, vit))]) for name in ("lora", "ssf", "linear")]
    found = logits_of_images(batch, models, images)
    for model, logits in zip(models, found, strict=True):
        alone = torch.stack(batch.logits(images, [Row(image=i, model=model) for i in range(len(images))]))
        assert logits.shape == alone.shape
        assert relative(logits, alone) <= 1e-5


def test_batches_are_joined_in_order_and_counted() -> None:
    vit, _ = family("plain")
    images, batch, done = images_of(vit), Batch(vit), list[int]()
    models = [Model([Term(adapter=adapter_of(name, vit))]) for name in ("lora", "vpt_shallow")]
    whole = logits_of_images(batch, models, images)
    parts = logits_over(batch, models, images.split(2), done.append)
    assert done == [2, 1]
    for one, other in zip(whole, parts, strict=True):
        assert relative(one, other) <= 1e-5


def test_images_of_another_dtype_are_taken() -> None:
    vit, _ = family("plain")
    models = [Model([Term(adapter=adapter_of("lora", vit))])]
    (found,) = logits_of_images(Batch(vit), models, images_of(vit).double())
    assert found.dtype == torch.float32


def test_a_batch_has_an_image_at_least_and_fewer_the_more_models_there_are() -> None:
    assert [images_at_once(models) for models in (0, 1, 3, 32, 100)] == [32, 32, 10, 1, 1]
