"""From the logits of images to their answers, counted and sealed into prediction ids. Blocking.

Shapes: n images, K members, C classes, D the backbone's width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model_store.resolution.versions import Member
from petl_vit.cascade import NOT_ASKED
from petl_vit.combine import Answer, Array, combine
from petl_vit.errors import CorollaError
from serving.answer.frozen import Frozen
from serving.answer.rounds import Asking
from serving.engine.engine import Logits
from serving.metrics.recorder import CascadeCounts, Recorded, Recorder
from serving.registry.catalog import Plan
from serving.request import BadScores, ImageAnswer

_AT_ONCE = 2**20
"""Logits that are combined at a time: beyond this, more at once are not faster."""


@dataclass(frozen=True, kw_only=True)
class Counting:
    """Turns the logits of images under one plan into answers.

    Args:
        domain: As the recorder counts it.
    """

    plan: Plan
    recorder: Recorder
    domain: str

    def answers(
        self, logits: Sequence[Logits | CorollaError], all_asked: Sequence[bool]
    ) -> list[ImageAnswer | CorollaError]:
        """The answer for each image, or its error, or that a member gave scores that are not numbers.

        Args:
            logits: Of every member, as the route lists them; of a cascade, of those asked, in that order.
            all_asked: Of a cascade, whether an image was put to all members, whatever its answer needs.
        """
        plan, outcomes = self.plan, dict[int, ImageAnswer | CorollaError]()
        whole: dict[int, Sequence[Array]] = {}
        for place, of_image in enumerate(logits):
            if isinstance(of_image, CorollaError):
                outcomes[place] = of_image
            elif plan.cascade is not None:
                asking = Asking(resolved=plan.resolved, cascade=plan.cascade)
                outcomes[place] = self._of_cascade(asking, of_image, all_asked[place])
            else:
                whole[place] = plan.resolved.aligned(of_image)
        outcomes |= self._of_all(whole)
        return [outcomes[place] for place in range(len(logits))]

    def frozen(self, images: Sequence[ImageAnswer | CorollaError], frozen: Sequence[Frozen | None]) -> None:
        """Counts what the frozen backbone says of images that were answered."""
        named, digest = self.plan.named, self._digest
        for image, said in zip(images, frozen, strict=True):
            if said is not None and isinstance(image, ImageAnswer):
                assert named is not None, "only named routes have a frozen share"
                predicted, features, base = image.predicted, said.features, said.base
                self.recorder.frozen(named, self.domain, predicted, features, base, digest=digest)

    @property
    def _digest(self) -> str:
        """Of what answers; only named routes are compared with a reference."""
        return "" if self.plan.named is None else self.plan.digest

    def _of_all(self, images: Mapping[int, Sequence[Array]]) -> dict[int, ImageAnswer | CorollaError]:
        """The answers of all members for images, by their places in the request."""
        plan, outcomes = self.plan, dict[int, ImageAnswer | CorollaError]()
        weights = np.array([member.weight for member in plan.resolved.members])
        for places in _parts(images):
            logits = np.array([images[place] for place in places])
            finite = np.isfinite(logits).all(axis=(1, 2))
            for place in np.array(places)[~finite].tolist():
                outcomes[place] = self._bad_scores(plan.resolved.members, images[place])
            answered = np.array(places)[finite].tolist()
            if not answered:
                continue
            answer = combine(
                logits[finite], weights, rule=plan.resolved.combine, temperature=plan.temperature
            )
            counts = [
                CascadeCounts(asked=len(weights), of_all=answer.of(i))
                for i in range(len(answered) if plan.void else 0)
            ]
            outcomes |= zip(answered, self._counted(answer, counts), strict=True)
        return outcomes

    def _of_cascade(self, asking: Asking, logits: Logits, all_asked: bool) -> ImageAnswer | CorollaError:
        asked = asking.asked(logits) if all_asked else len(logits)
        order = [self.plan.resolved.members[i] for i in asking.cascade.order]
        aligned = asking.aligned(logits)
        members = aligned[:asked]
        if not _finite(members):
            return self._bad_scores(order, members)
        of_all = None
        if all_asked:
            rest = aligned[asked:]
            if _finite(rest):
                of_all = asking.answer_of_all(aligned)
            else:
                self._bad_scores(order[asked:], rest)
        counts = CascadeCounts(asked=asked, of_all=of_all, in_share=of_all is not None)
        return self._counted(asking.answer(members), [counts])[0]

    def _bad_scores(self, members: Sequence[Member], logits: Sequence[Array]) -> BadScores:
        """Counts and names the first member whose logits are not finite."""
        bad = zip(members, logits, strict=False)
        member = next(member for member, z in bad if not np.isfinite(z).all())
        self.recorder.invalid_scores(self.plan.named, member.name)
        return BadScores(
            f"{member} gave scores that are not finite",
            remedy="look at the image's values and at alpha, then at the adapter's training",
        )

    def _counted(self, answer: Answer, counts: Sequence[CascadeCounts]) -> list[ImageAnswer]:
        plan = self.plan
        recorded = self.recorder.answers(
            plan.named, plan.resolved, self.domain, answer, counts, digest=self._digest
        )
        return _image_answers(answer, recorded)


def _finite(logits: Sequence[Array]) -> bool:
    return all(np.isfinite(z).all() for z in logits)


def _parts(images: Mapping[int, Sequence[Array]]) -> Iterator[list[int]]:
    """The places of images, as many at a time as are combined at once."""
    places = list(images)
    if places:
        one = sum(z.size for z in images[places[0]])
        size = max(1, _AT_ONCE // one)
        for start in range(0, len(places), size):
            yield places[start : start + size]


def _image_answers(answer: Answer, recorded: Sequence[Recorded]) -> list[ImageAnswer]:
    votes, confidences = answer.votes.tolist(), answer.confidences.tolist()
    numbers = zip(
        answer.predicted.tolist(),
        answer.agreement.tolist(),
        answer.entropy.tolist(),
        answer.mutual_information.tolist(),
        strict=True,
    )
    return [
        ImageAnswer(
            probabilities=answer.probabilities[i],
            predicted=predicted,
            votes=tuple(None if vote == NOT_ASKED else vote for vote in votes[i]),
            confidences=tuple(
                None if vote == NOT_ASKED else confidence
                for vote, confidence in zip(votes[i], confidences[i], strict=True)
            ),
            agreement=agreement,
            entropy=entropy,
            mutual_information=information,
            prediction_id=recorded[i].prediction_id,
            label_request=recorded[i].label_request,
        )
        for i, (predicted, agreement, entropy, information) in enumerate(numbers)
    ]
