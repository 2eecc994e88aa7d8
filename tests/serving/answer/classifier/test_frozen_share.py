"""The frozen share: what the frozen backbone says of some images, and that no answer depends on it."""

from collections.abc import Sequence

import numpy as np
import pytest

from model_store.format.records import TaskRecord
from model_store.resolution.loading import Loader
from model_store.routes.text import parse_route
from petl_vit.batch import Batch, Features, Row, Term
from petl_vit.errors import Corrupt
from petl_vit.heads import Head
from petl_vit.preprocess import preprocess
from serving.engine.engine import Job, Logits
from serving.request import ImageAnswer
from tests.serving.answer.classifier.parts import Parts, answers, logits, parts_of
from tests.serving.metrics.references import reference_of
from tests.serving.world import PREPROCESS, SIZE, World, encoded

IMAGES = [encoded(seed) for seed in range(6)]
PLACE = {"route": "shapes/best", "domain": "unset"}


def features_of(world: World) -> np.ndarray:
    """[6, 48], of the frozen backbone."""
    loader = Loader(world.store, world.backbone)
    model = Features([Term(adapter=loader.adapter(world.resolve("base").members[0].terms[0]))])
    rows = [
        Batch(loader.vit(SIZE)).logits(preprocess(image, PREPROCESS)[None], [Row(image=0, model=model)])
        for image in IMAGES
    ]
    return np.stack([of_image.double().numpy() for (of_image,) in rows])


def same(found: Sequence[ImageAnswer], expected: Sequence[ImageAnswer]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
        assert (ours.predicted, ours.votes) == (theirs.predicted, theirs.votes)


async def test_images_of_the_share_are_put_to_the_frozen_backbone_and_answered_as_without(
    world: World, parts: Parts
) -> None:
    expected = answers(await parts.classify("best", *IMAGES))
    assert parts.count("corolla_frozen_predictions_total", **PLACE) == 0

    async with parts_of(world, frozen_share=1.0) as watched:
        found = answers(await watched.classify("best", *IMAGES))

    same(found, expected)
    ready = [preprocess(image, PREPROCESS) for image in IMAGES]
    base = logits(world, "base", *ready)[:, 0].argmax(-1)
    overrides = sum(answer.predicted != alone for answer, alone in zip(found, base, strict=True))
    assert watched.count("corolla_frozen_predictions_total", **PLACE) == 6
    assert watched.count("corolla_base_overrides_total", **PLACE) == overrides
    assert watched.count("corolla_batch_rows_sum") == 6 * 4
    assert watched.count("corolla_feature_distance_ratio_count", **PLACE) == 0


async def test_features_are_compared_with_the_reference_of_exactly_what_answers(world: World) -> None:
    async with parts_of(world, frozen_share=1.0) as parts:
        await parts.classify("best", IMAGES[0])
        plan = parts.catalog.plan("shapes", parse_route("best"), extrapolate=False)
        features = features_of(world)
        reference = reference_of(plan, features[:4])
        parts.metrics.set_reference("shapes/best", reference)
        found = answers(await parts.classify("best", *IMAGES))

    mean, variance = features[:4].mean(0), features[:4].var(0)
    distances = np.sqrt(((features - mean) ** 2 / variance).mean(1))
    assert reference.features is not None
    foreign = (distances > reference.features.distance).sum()
    assert 0 < foreign < 6
    assert parts.count("corolla_feature_distance_ratio_count", **PLACE) == 6
    assert parts.count("corolla_feature_distance_ratio_sum", **PLACE) == pytest.approx(
        distances.sum() / reference.features.distance, rel=1e-4
    )
    assert parts.count("corolla_foreign_inputs_total", **PLACE) == foreign
    scores = np.log([answer.probabilities.max() for answer in found])
    right = (scores >= reference.threshold("atc_mc")).sum()
    assert parts.count("corolla_estimated_correct_total", **PLACE, method="atc_mc") == right
    assert parts.count("corolla_estimated_predictions_total", **PLACE, method="atc_mc") == 6
    confidences = sum(float(answer.probabilities.max()) for answer in found)
    confidences += float(found[0].probabilities.max())  # the first request was of that image too
    assert parts.count("corolla_estimated_correct_total", **PLACE, method="confidence") == pytest.approx(
        confidences
    )


@pytest.mark.parametrize("why", ["another route's", "stale", "gone"])
async def test_a_reference_of_anything_else_scores_nothing(world: World, why: str) -> None:
    async with parts_of(world, frozen_share=1.0) as parts:
        await parts.classify("best", IMAGES[0])
        of = "best" if why != "another route's" else "lora"
        plan = parts.catalog.plan("shapes", parse_route(of), extrapolate=False)
        reference = reference_of(plan, features_of(world))
        parts.metrics.set_reference("shapes/best", reference, "its alias moved" if why == "stale" else "")
        if why == "gone":
            parts.metrics.set_reference("shapes/best", None)
        await parts.classify("best", *IMAGES)

    assert parts.count("corolla_frozen_predictions_total", **PLACE) == 7
    assert parts.count("corolla_feature_distance_ratio_count", **PLACE) == 0
    assert parts.count("corolla_estimated_predictions_total", **PLACE, method="atc_mc") == 0
    assert parts.count("corolla_estimated_predictions_total", **PLACE, method="confidence") == 7


async def test_a_route_without_a_name_and_features_have_no_frozen_share(world: World) -> None:
    async with parts_of(world, frozen_share=1.0) as parts:
        await parts.classify("lora, ssf", *IMAGES)
    assert parts.count("corolla_batch_rows_sum") == 12


async def test_a_cascade_puts_images_of_the_share_to_the_frozen_backbone_in_their_first_round(
    own_world: World,
) -> None:
    own_world.put_cascade("quick", "cascade(lora, ssf, bitfit; loss<=0.01)", (0.6, 0.6))
    witnesses: list[list[bool]] = []

    def run(jobs: Sequence[Job]) -> list[Logits | Exception]:
        witnesses.append([job.witness is not None for job in jobs])
        return watched.engine.run(jobs)

    async with parts_of(own_world) as parts:
        expected = answers(await parts.classify("quick", *IMAGES))
    async with parts_of(own_world, run, frozen_share=1.0) as watched:
        found = answers(await watched.classify("quick", *IMAGES))

    same(found, expected)
    assert {answer.members_asked for answer in found} > {1}
    assert all(witnesses[0])
    assert not any(map(any, witnesses[1:]))
    assert watched.count("corolla_frozen_predictions_total", route="shapes/quick", domain="unset") == 6


async def test_features_that_are_not_finite_are_counted_as_invalid_and_the_answer_stands(
    world: World,
) -> None:
    def run(jobs: Sequence[Job]) -> list[Logits | Exception]:
        found = parts.engine.run(jobs)
        for of_job in found:
            assert isinstance(of_job, list)
            of_job[-1][0] = np.nan
        return found

    async with parts_of(world, run, frozen_share=1.0) as parts:
        answers(await parts.classify("best", *IMAGES))
    assert parts.count("corolla_invalid_scores_total", route="shapes/best", member="frozen") == 6
    assert parts.count("corolla_frozen_predictions_total", **PLACE) == 0


async def test_a_base_head_that_cannot_be_read_costs_no_answer(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(task: TaskRecord) -> Head:
        raise Corrupt("its base head is damaged", field="head.safetensors")

    async with parts_of(world, base_head=damaged, frozen_share=1.0) as parts:
        answers(await parts.classify("best", *IMAGES))
    assert parts.count("corolla_frozen_predictions_total", **PLACE) == 0
    assert [record.message for record in caplog.records if "frozen backbone" in record.message] == [
        "no image of task shapes is put to the frozen backbone: head.safetensors: its base head is damaged"
    ]
