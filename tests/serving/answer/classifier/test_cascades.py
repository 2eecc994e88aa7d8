"""Cascades through a real store, cache, batcher and engine: who is asked, what is answered and counted."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import pytest

from petl_vit.cascade import NOT_ASKED, CascadeAnswer, Score, scores
from petl_vit.cascade import answers as answers_of
from petl_vit.combine import combine
from petl_vit.errors import CorollaError, Expired, InvalidInput
from petl_vit.preprocess import preprocess
from serving.engine.engine import Job, Logits
from serving.feedback.label import Label, Said
from serving.request import BadScores, ImageAnswer
from tests.serving.answer.classifier.parts import PREDICTION_IDS, answers, logits, parts_of
from tests.serving.feedback.parts import feedback_over
from tests.serving.world import PREPROCESS, World, encoded

IMAGES = [encoded(seed) for seed in range(8)]
MEMBERS = "lora, ssf, reordered/lora"
TEXT = f"cascade({MEMBERS}; loss<=0.01)"
ORDER = (1, 2, 0)
TEMPERATURES = (1.2, 0.9, 1.4)
ROUTE = {"route": "shapes/quick"}
PLACE = ROUTE | {"domain": "unset"}


@pytest.fixture
def known(own_world: World) -> np.ndarray:
    """[8, 3, 3], of every member on every image, as the route lists them."""
    ready = [preprocess(image, PREPROCESS) for image in IMAGES]
    resolved = own_world.resolve(MEMBERS)
    return np.stack(resolved.aligned([*logits(own_world, MEMBERS, *ready).transpose(1, 0, 2)]), axis=1)


@pytest.fixture
def expected(own_world: World, known: np.ndarray) -> CascadeAnswer:
    """What the named cascade `quick` answers: some images by one member, some by two, some by all."""
    first = scores(known[:, ORDER[:1]], Score.CONFIDENCE, TEMPERATURES[0])
    second = scores(known[:, ORDER[:2]], Score.CONFIDENCE, TEMPERATURES[1])
    unsettled = first < np.median(first)
    thresholds = (float(np.median(first)), float(np.median(second[unsettled])))
    cascade = own_world.put_cascade("quick", TEXT, thresholds, order=ORDER, temperatures=TEMPERATURES)
    found = answers_of(known, Score.CONFIDENCE, cascade.stages, order=ORDER)
    assert set(found.asked.tolist()) == {1, 2, 3}
    return found


def check(answer: ImageAnswer, expected: CascadeAnswer, i: int) -> None:
    """One answer is that of the pure function over logits of forwards for each row alone."""
    np.testing.assert_allclose(answer.probabilities, expected.answer.probabilities[i], atol=1e-5)
    assert answer.members_asked == expected.asked[i]
    votes = tuple(None if vote == NOT_ASKED else vote for vote in expected.answer.votes[i].tolist())
    assert answer.votes == votes
    assert [c is None for c in answer.confidences] == [vote is None for vote in votes]
    assert answer.agreement == pytest.approx(expected.answer.agreement[i])


async def test_members_are_asked_in_rounds_until_the_answer_is_settled(
    own_world: World, expected: CascadeAnswer
) -> None:
    rounds: list[list[str]] = []

    def run(jobs: Sequence[Job]) -> list[Logits | Exception]:
        rounds.append([model.digests[0] for job in jobs for model in job.models])
        return parts.engine.run(jobs)

    async with parts_of(own_world, run) as parts:
        response = await parts.classify("quick", *IMAGES)

    for i, answer in enumerate(answers(response)):
        check(answer, expected, i)
    digests = [member.terms[0].digest for member in response.resolved.members]
    asked = [int((expected.asked > k).sum()) for k in range(3)]
    assert rounds == [[digests[member]] * count for member, count in zip(ORDER, asked, strict=True)]
    assert str(response.resolved) == "cascade(shapes/lora:2, shapes/ssf:1, reordered/lora:1; loss<=0.01)"
    assert response.timings.forward_s > 0


async def test_rounds_of_many_requests_share_batches_and_none_is_mixed_up(
    own_world: World, expected: CascadeAnswer
) -> None:
    async with parts_of(own_world) as parts:
        requests = [parts.classify("quick", *IMAGES[i:], *IMAGES[:i]) for i in range(8)]
        for i, response in enumerate(await asyncio.gather(*requests)):
            for position, answer in enumerate(answers(response)):
                check(answer, expected, (position + i) % 8)
        assert not parts.batcher.busy


async def test_what_a_cascade_asks_is_counted_and_how_its_members_agree_is_not(
    own_world: World, expected: CascadeAnswer
) -> None:
    async with parts_of(own_world) as parts:
        found = answers(await parts.classify("quick", *IMAGES))

    assert parts.count("corolla_predictions_total", **PLACE) == 8
    assert parts.count("corolla_cascade_members_asked_sum", **PLACE) == expected.asked.sum()
    assert (
        parts.count("corolla_cascade_members_asked_bucket", **PLACE, le="1.0") == (expected.asked == 1).sum()
    )
    for name in (
        "ensemble_agreement_ratio_count",
        "member_predictions_total",
        "cascade_full_predictions_total",
    ):
        assert parts.count(f"corolla_{name}", **PLACE) == 0
    assert parts.count("corolla_cascade_void", **ROUTE) == 0

    said = Said(classes=(found[0].predicted,))
    with closing(feedback_over(own_world, parts.metrics, PREDICTION_IDS)) as feedback:
        (result,) = feedback.take([Label(prediction_id=found[0].prediction_id, said=said)])
    assert result.status == "matched"
    assert parts.count("corolla_feedback_total", **PLACE, outcome="correct") == 1
    assert parts.count("corolla_member_feedback_total", **PLACE, member="ssf", outcome="correct") == 0
    assert PREDICTION_IDS.open(found[0].prediction_id).votes == found[0].votes


async def test_the_share_that_is_put_to_all_members_changes_what_is_counted_and_no_answer(
    own_world: World, expected: CascadeAnswer, known: np.ndarray
) -> None:
    async with parts_of(own_world, cascade_full_share=1.0) as parts:
        found = answers(await parts.classify("quick", *IMAGES))

    for i, answer in enumerate(found):
        check(answer, expected, i)
    whole = combine(known, np.ones(3), temperature=TEMPERATURES[-1])
    assert parts.count("corolla_cascade_full_predictions_total", **PLACE) == 8
    same = (whole.predicted == expected.answer.predicted).sum()
    assert parts.count("corolla_cascade_full_agreements_total", **PLACE) == same
    assert parts.count("corolla_cascade_members_asked_sum", **PLACE) == expected.asked.sum()
    assert parts.count("corolla_ensemble_agreement_ratio_sum", **PLACE) == pytest.approx(
        whole.agreement.sum()
    )
    information = parts.count("corolla_ensemble_mutual_information_nats_sum", **PLACE)
    assert information == pytest.approx(whole.mutual_information.sum(), abs=1e-4)
    for position, label in enumerate(parts.metrics.known_routes["shapes/quick"]):
        agreed = (whole.votes[:, position] == whole.predicted).sum()
        assert parts.count("corolla_member_vote_agreements_total", **PLACE, member=label) == agreed
    prediction = PREDICTION_IDS.open(found[0].prediction_id)
    assert prediction.votes == tuple(whole.votes[0])
    assert prediction.members == parts.metrics.known_routes["shapes/quick"]


async def test_a_moved_alias_voids_the_thresholds_so_that_all_members_answer(own_world: World) -> None:
    own_world.put_cascade("quick", "cascade(lora@prod, ssf; loss<=0.01)", (0.0,))
    async with parts_of(own_world, cascade_full_share=1.0) as parts:
        (answer,) = answers(await parts.classify("quick", IMAGES[0]))
        assert answer.members_asked == 1
        own_world.store.adapters.set_alias("shapes", "lora", "prod", 2)
        parts.catalog.refresh()
        response = await parts.classify("quick", IMAGES[0])

        (answer,) = answers(response)
        assert answer.members_asked == 2
        (members,) = logits(own_world, "lora:2, ssf", preprocess(IMAGES[0], PREPROCESS))
        np.testing.assert_allclose(
            answer.probabilities, combine(members[None], np.ones(2)).probabilities[0], atol=1e-5
        )
        assert "are not applied: all members answer" in response.route_note
        assert parts.count("corolla_cascade_void", **ROUTE) == 1
        assert parts.count("corolla_cascade_members_asked_sum", **PLACE) == 1 + 2
        assert parts.count("corolla_cascade_full_predictions_total", **PLACE) == 1
        assert parts.count("corolla_ensemble_agreement_ratio_count", **PLACE) == 2

        own_world.store.adapters.set_alias("shapes", "lora", "prod", 1)
        parts.catalog.refresh()
        assert answers(await parts.classify("quick", IMAGES[0]))[0].members_asked == 1
        assert parts.count("corolla_cascade_void", **ROUTE) == 0
        own_world.put_route("quick", "lora, ssf")
        parts.catalog.refresh()
        await parts.classify("quick", IMAGES[0])
        assert parts.metrics.registry.get_sample_value("corolla_cascade_void", ROUTE) is None


async def test_a_cascade_without_thresholds_is_refused_with_what_to_do(own_world: World) -> None:
    own_world.put_route("raw", TEXT)
    async with parts_of(own_world) as parts:
        for text, remedy in (
            (TEXT, "corolla routes calibrate ... --as NAME"),
            ("raw", "calibrate raw --task shapes"),
        ):
            with pytest.raises(InvalidInput) as error:
                await parts.classify(text, IMAGES[0])
            assert error.value.field == "route"
            assert error.value.remedy is not None
            assert remedy in error.value.remedy


async def test_a_bad_image_fails_alone_and_the_others_go_on_to_the_next_round(
    own_world: World, expected: CascadeAnswer
) -> None:
    async with parts_of(own_world) as parts:
        response = await parts.classify("quick", b"no image", *IMAGES[:7])
    assert isinstance(response.images[0], CorollaError)
    for i, answer in enumerate(response.images[1:]):
        assert isinstance(answer, ImageAnswer)
        check(answer, expected, i)


@pytest.mark.parametrize("share", [0.0, 1.0])
async def test_scores_that_are_not_finite_fail_the_images_that_need_them(
    own_world: World, expected: CascadeAnswer, share: float
) -> None:
    """The member that is asked last gives NaN: whoever is settled before it has an answer."""
    last = own_world.resolve("lora").members[0].terms[0].digest

    def run(jobs: Sequence[Job]) -> list[Logits | Exception]:
        found = parts.engine.run(jobs)
        for job, of_job in zip(jobs, found, strict=True):
            for model, z in zip(job.models, of_job if isinstance(of_job, list) else (), strict=True):
                if model.digests[0] == last:
                    z[:] = np.nan
        return found

    async with parts_of(own_world, run, cascade_full_share=share) as parts:
        response = await parts.classify("quick", *IMAGES)
    for i, answer in enumerate(response.images):
        if expected.asked[i] == 3:
            assert isinstance(answer, BadScores)
            assert "lora:2 gave scores that are not finite" in str(answer)
        else:
            assert isinstance(answer, ImageAnswer)
            check(answer, expected, i)
    failed = 8 if share else (expected.asked == 3).sum()
    assert parts.count("corolla_invalid_scores_total", **ROUTE, member="lora") == failed
    assert parts.count("corolla_cascade_full_predictions_total", **PLACE) == 0


async def test_a_deadline_that_passes_between_rounds_ends_the_request(
    own_world: World, expected: CascadeAnswer
) -> None:
    """An answer that was stopped early would lose more accuracy than was stated."""

    def run(jobs: Sequence[Job]) -> list[Logits | Exception]:
        ran.append(len(jobs))
        # The clock of the batcher is real: the next round is submitted after its deadline.
        while time.monotonic() < deadline:
            pass
        return parts.engine.run(jobs)

    ran: list[int] = []
    async with parts_of(own_world, run) as parts:
        deadline = time.monotonic() + 0.5
        with pytest.raises(Expired):
            await parts.classify("quick", *IMAGES, deadline=deadline)
    assert ran == [8]


async def test_later_members_stay_leased_between_rounds(own_world: World, expected: CascadeAnswer) -> None:
    def run(jobs: Sequence[Job]) -> list[Logits | Exception]:
        in_use.append({resident.digest for resident in parts.cache.residents() if resident.rows_in_use})
        return parts.engine.run(jobs)

    in_use: list[set[str]] = []
    async with parts_of(own_world, run) as parts:
        response = await parts.classify("quick", *IMAGES)
    assert in_use == [{term.digest for term in response.resolved.terms()}] * 3
