"""The classifier with a real store, cache and engine, without gRPC."""

import io

import numpy as np
import PIL.Image
import pytest
import torch

from model_store.format.records import TaskSpec
from petl_vit.errors import CorollaError, Draining, Expired, InvalidInput
from petl_vit.heads import LinearHead
from petl_vit.image_input import Preprocess
from petl_vit.preprocess import preprocess
from serving.engine.engine import Job, Logits
from serving.metrics.label_values import MAX_ROUTES
from serving.request import ImageAnswer
from tests.serving.answer.classifier.parts import PREDICTION_IDS, Parts, answers, logits, parts_of, softmax
from tests.serving.world import (
    HALF,
    PREPROCESS,
    SHAPES,
    World,
    encoded,
    pixels,
)


async def test_a_single_route_answers_as_its_model_alone(world: World, parts: Parts) -> None:
    response = await parts.classify("lora", encoded(1), encoded(2))

    reference = softmax(logits(world, "lora", *(preprocess(encoded(i), PREPROCESS) for i in (1, 2)))[:, 0])
    for answer, expected in zip(answers(response), reference, strict=True):
        np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)
        assert answer.agreement == 1
        assert answer.mutual_information == pytest.approx(0, abs=1e-9)


async def test_an_ensemble_is_the_weighted_mean_of_its_members_logits(world: World, parts: Parts) -> None:
    (answer,) = answers(await parts.classify("2: lora, 1: ssf, 1: 0.5*full", encoded(3)))

    (members,) = logits(world, "lora, ssf, 0.5*full", preprocess(encoded(3), PREPROCESS))
    weighted = np.average(members, axis=0, weights=[2, 1, 1])
    np.testing.assert_allclose(answer.probabilities, softmax(weighted), atol=1e-5)
    assert answer.votes == tuple(members.argmax(-1))
    assert answer.agreement == np.mean(members.argmax(-1) == weighted.argmax())


async def test_the_temperature_of_a_named_route_divides_its_logits(world: World, parts: Parts) -> None:
    (answer,) = answers(await parts.classify("best", encoded(3)))

    (members,) = logits(world, "lora, ssf, 0.5*bitfit", preprocess(encoded(3), PREPROCESS))
    np.testing.assert_allclose(answer.probabilities, softmax(members.mean(0) / 2.0), atol=1e-5)


async def test_classes_in_another_order_are_matched_by_name(world: World, parts: Parts) -> None:
    (answer,) = answers(await parts.classify("lora, reordered/lora", encoded(4)))

    image = preprocess(encoded(4), PREPROCESS)
    ours = logits(world, "lora", image)[0, 0]
    theirs = logits(world, "reordered/lora", image)[0, 0]
    by_name = dict(zip(("star", "circle", "square"), theirs, strict=True))
    expected = (ours + np.array([by_name[name] for name in SHAPES])) / 2
    np.testing.assert_allclose(answer.probabilities, softmax(expected), atol=1e-5)


async def test_encoded_images_and_both_kinds_of_arrays_are_one_image(parts: Parts) -> None:
    ready = preprocess(encoded(5), PREPROCESS).numpy()
    found = [answers(await parts.classify("lora", picture))[0] for picture in (encoded(5), pixels(5), ready)]

    np.testing.assert_allclose(found[1].probabilities, found[0].probabilities, atol=1e-6)
    np.testing.assert_allclose(found[2].probabilities, found[0].probabilities, atol=1e-6)


async def test_a_bad_image_has_its_own_error_and_the_others_their_answers(parts: Parts) -> None:
    response = await parts.classify("lora", encoded(1), b"no image", encoded(2))

    first, bad, last = response.images
    assert isinstance(first, ImageAnswer)
    assert isinstance(last, ImageAnswer)
    assert isinstance(bad, InvalidInput)
    assert bad.field == "images[1]"
    assert parts.count("corolla_images_total", status="ok") == 2
    assert parts.count("corolla_images_total", status="invalid") == 1


async def test_a_request_of_bad_images_only_is_answered(parts: Parts) -> None:
    response = await parts.classify("lora", b"", b"GIF89a")

    assert all(isinstance(image, InvalidInput) for image in response.images)
    assert parts.count("corolla_batch_rows_count") == 0


async def test_an_image_of_too_many_pixels_is_refused_alone(parts: Parts) -> None:
    file = io.BytesIO()
    PIL.Image.new("RGB", (101, 100)).save(file, "PNG")

    (large,) = (await parts.classify("lora", file.getvalue())).images

    assert isinstance(large, InvalidInput)
    assert "more than the limit of 10,000" in str(large)


async def test_nan_in_one_image_is_refused_alone(parts: Parts) -> None:
    ready = preprocess(encoded(1), PREPROCESS).numpy()
    odd = ready.copy()
    odd[0, 3, 3] = np.nan

    fine, refused = (await parts.classify("lora", ready, odd)).images

    assert isinstance(fine, ImageAnswer)
    assert isinstance(refused, InvalidInput)
    assert refused.field == "tensor[1]"


async def test_arrays_that_cannot_be_written_are_taken(parts: Parts) -> None:
    ready = preprocess(encoded(1), PREPROCESS).numpy()
    ready.flags.writeable = False

    assert len(answers(await parts.classify("lora", ready))) == 1


async def test_members_that_prepare_images_differently_are_refused(own_world: World) -> None:
    other = Preprocess(image_size=64, mean=HALF, std=HALF)
    spec = TaskSpec.of(
        name="large", classes=SHAPES, preprocess=other, backbone_digest=own_world.backbone.digest
    )
    own_world.store.tasks.put(spec, LinearHead.init(3, 48, torch.Generator()).tensors())
    async with parts_of(own_world) as parts:
        with pytest.raises(InvalidInput, match="'shapes' and 'large' prepare images differently"):
            await parts.classify("lora, large/base", encoded(1))
        assert len(answers(await parts.classify("base", encoded(1), task="large"))) == 1


async def test_scores_that_are_not_finite_are_an_error_of_that_image(world: World) -> None:
    def broken(jobs: list[Job]) -> list[Logits]:
        return [[np.full(3, np.nan if i == 0 else 1.0)] for i, _ in enumerate(jobs)]

    async with parts_of(world, broken) as parts:
        bad, fine = (await parts.classify("lora", encoded(1), encoded(2))).images

        assert isinstance(bad, CorollaError)
        assert "not finite" in str(bad)
        assert isinstance(fine, ImageAnswer)
        assert parts.count("corolla_invalid_scores_total", route="adhoc", member="ensemble") == 1


@pytest.mark.parametrize("end", [Expired, Draining])
async def test_the_end_of_a_request_is_no_fault_of_its_images(world: World, end: type[CorollaError]) -> None:
    def ended(jobs: list[Job]) -> list[Exception]:
        return [end("it is over") for _ in jobs]

    async with parts_of(world, ended) as parts:
        with pytest.raises(end):
            await parts.classify("lora", encoded(1), b"no image")
        assert parts.count("corolla_images_total", status="ok") == 0


async def test_predictions_of_a_named_route_are_counted_under_it(parts: Parts) -> None:
    response = await parts.classify("best", encoded(1), encoded(2), domain="unknown-shop")

    here = {"route": "shapes/best", "domain": "other"}
    assert parts.count("corolla_predictions_total", **here) == 2
    assert parts.metrics.known_routes["shapes/best"] == ("lora", "ssf", "0.5*bitfit")
    prediction = PREDICTION_IDS.open(answers(response)[0].prediction_id)
    assert (prediction.route, prediction.domain, prediction.task) == ("shapes/best", "other", "shapes")
    assert prediction.members == ("lora", "ssf", "0.5*bitfit")


async def test_named_routes_beyond_the_limit_count_as_other(world: World, parts: Parts) -> None:
    for number in range(MAX_ROUTES):
        parts.metrics.add_route(f"filler-{number}", ["lora"])

    await parts.classify("best", encoded(1))

    assert parts.count("corolla_predictions_total", route="other", domain="unset") == 1
    assert parts.count("corolla_predictions_total", route="adhoc", domain="unset") == 0


async def test_a_redefined_route_shows_its_new_members(own_world: World) -> None:
    async with parts_of(own_world) as parts:
        await parts.classify("best", encoded(1))
        own_world.put_route("best", "vpt-deep, linear")
        parts.catalog.refresh()
        await parts.classify("best", encoded(1))

    labels = {"route": "shapes/best", "member": "vpt-deep", "domain": "unset"}
    assert parts.count("corolla_member_predictions_total", **labels) == 1
    shown = [
        sample.labels["version"]
        for family in parts.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "corolla_adapter_info"
    ]
    assert sorted(shown) == ["linear:1", "vpt-deep:1"]


async def test_too_many_images_are_refused_before_any_is_read(parts: Parts) -> None:
    with pytest.raises(InvalidInput, match="9 images in one request, at most 8") as caught:
        await parts.classify("lora", *[b""] * 9)
    assert caught.value.field == "images"
