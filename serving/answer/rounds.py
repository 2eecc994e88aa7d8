"""Rounds: the members of a cascade are asked one after another, and an image leaves once it is settled.

A round is every unsettled image of a request under the next member. Some images are put to all members at
once, so that how members agree can be counted on a fair sample; they are answered as if they were not.

Shapes: n images, k members asked so far, C classes.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from torch import Tensor

from model_store.format.records import Cascade
from model_store.resolution.versions import ResolvedRoute
from petl_vit import cascade as cascades
from petl_vit.batch import Model
from petl_vit.combine import Answer, Array, combine
from serving.engine.batcher import Done
from serving.engine.engine import Job, Logits

Outcome = Done[Logits] | BaseException
"""The logits of the members that an image was put to, in the order in which they are asked; or its error."""


class Submit(Protocol):
    """Runs jobs of one request; `later` are those of images that were in a round before."""

    def __call__(self, jobs: Sequence[Job], *, later: bool) -> Awaitable[list[Outcome]]: ...


InPool = Callable[[Callable[[], np.ndarray]], Awaitable[np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Asking:
    """A cascade whose thresholds apply, and what they are applied to."""

    resolved: ResolvedRoute
    cascade: Cascade

    def aligned(self, logits: Logits) -> list[Array]:
        """The logits of the members asked, in the order of the answer's classes."""
        asked = self.cascade.order[: len(logits)]
        return self.resolved.aligned(logits, [self.resolved.members[i] for i in asked])

    def closed(self, logits: Sequence[Logits]) -> np.ndarray:
        """Whether images need no further member, [n]; more members do not make numbers of NaN.

        Args:
            logits: Those of the k members asked so far, for each image.
        """
        stacked = np.stack([np.stack(self.aligned(of_image)) for of_image in logits])
        finite = np.isfinite(stacked).all(axis=(1, 2))
        closed = np.ones(len(stacked), dtype=np.bool_)
        stage = self.cascade.stages[stacked.shape[1] - 1]
        closed[finite] = cascades.settled(stacked[finite], self.cascade.score, stage)
        return closed

    def asked(self, logits: Logits) -> int:
        """How many members one image needs, of those whose logits are known."""
        return next((k for k in range(1, len(logits)) if self.closed([logits[:k]])[0]), len(logits))

    def answer(self, members: Sequence[Array]) -> Answer:
        """The answer of the members asked, one image; its votes are in the route's order."""
        alone = cascades.answer(np.stack(members)[None], self.cascade.stages[len(members) - 1])
        count, asked = len(self.resolved.members), list(self.cascade.order[: len(members)])
        votes = np.full((1, count), cascades.NOT_ASKED, dtype=np.int64)
        confidences = np.full((1, count), np.nan)
        votes[:, asked], confidences[:, asked] = alone.votes, alone.confidences
        return replace(alone, votes=votes, confidences=confidences)

    def answer_of_all(self, members: Sequence[Array]) -> Answer:
        """The answer of all members, one image; its votes are in the route's order."""
        place = {member: position for position, member in enumerate(self.cascade.order)}
        in_order = np.stack([members[place[i]] for i in range(len(members))])[None]
        return combine(in_order, np.ones(len(members)), temperature=self.cascade.stages[-1].temperature)


async def ask(
    asking: Asking,
    images: Sequence[Tensor],
    models: Sequence[Model],
    *,
    all_of: Sequence[bool],
    witnesses: Sequence[Model | None],
    submit: Submit,
    in_pool: InPool,
) -> list[Outcome]:
    """Puts every image to as many members as it needs.

    Args:
        models: The members, as the route lists them.
        all_of: For each image, whether it is put to all members at once.
        witnesses: For each image, what its first job has besides; `submit` keeps what that says.

    Returns:
        For each image the logits of the members it was put to, in the order in which they are asked, and the
        time of all its rounds.

    Raises:
        Overloaded, Expired, Draining: As `Batcher.submit`; also between rounds, as a cascade that was stopped
            early would lose more than it may.
    """
    in_order = [models[i] for i in asking.cascade.order]
    jobs = [
        Job(image=image, models=tuple(in_order if whole else in_order[:1]), witness=witness)
        for image, whole, witness in zip(images, all_of, witnesses, strict=True)
    ]
    outcomes = await submit(jobs, later=False)
    for model in in_order[1:]:
        unsettled = await _unsettled(asking, outcomes, all_of, in_pool)
        if not unsettled:
            break
        more = [Job(image=images[i], models=(model,)) for i in unsettled]
        for i, outcome in zip(unsettled, await submit(more, later=True), strict=True):
            outcomes[i] = _longer(outcomes[i], outcome)
    return outcomes


async def _unsettled(
    asking: Asking, outcomes: Sequence[Outcome], all_of: Sequence[bool], in_pool: InPool
) -> list[int]:
    """The images that the next member is asked about."""
    candidates = {
        i: outcome.result for i, outcome in enumerate(outcomes) if isinstance(outcome, Done) and not all_of[i]
    }
    most = max(map(len, candidates.values()), default=0)  # what is shorter was settled before
    latest = {i: logits for i, logits in candidates.items() if len(logits) == most}
    if not latest:
        return []
    closed = await in_pool(lambda: asking.closed(list(latest.values())))
    return [i for i, done in zip(latest, closed, strict=True) if not done]


def _longer(before: Outcome, outcome: Outcome) -> Outcome:
    """What is known of an image after one more round."""
    if not isinstance(before, Done) or not isinstance(outcome, Done):
        return outcome
    return Done(
        result=before.result + outcome.result,
        queue_s=before.queue_s + outcome.queue_s,
        run_s=before.run_s + outcome.run_s,
    )
