"""From the logits of one image to its answer, counted and sealed into a prediction id. Blocking."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model_store.resolution.versions import Member
from petl_vit.cascade import NOT_ASKED
from petl_vit.combine import Answer, Array, combine
from petl_vit.errors import CorollaError
from serving.answer.rounds import Asking
from serving.engine.engine import Logits
from serving.metrics.recorder import CascadeCounts, Recorded, Recorder
from serving.registry.catalog import Plan
from serving.request import BadScores, ImageAnswer


@dataclass(frozen=True, kw_only=True)
class Counting:
    """Turns the logits of images under one plan into answers.

    Args:
        domain: As the recorder counts it.
    """

    plan: Plan
    recorder: Recorder
    domain: str

    def answer(self, logits: Logits, *, all_asked: bool = False) -> ImageAnswer | CorollaError:
        """The answer for one image, or that a member gave scores that are not numbers.

        Args:
            logits: Of every member, as the route lists them; of a cascade, of those asked, in that order.
            all_asked: Of a cascade, whether the image was put to all members, whatever its answer needs.
        """
        plan = self.plan
        if plan.cascade is not None:
            asking = Asking(resolved=plan.resolved, cascade=plan.cascade)
            return self._of_cascade(asking, logits, all_asked)
        members = self._finite(plan.resolved.members, plan.resolved.aligned(logits))
        if isinstance(members, BadScores):
            return members
        weights = np.array([member.weight for member in plan.resolved.members])
        answer = combine(
            np.stack(members)[None], weights, rule=plan.resolved.combine, temperature=plan.temperature
        )
        counts = CascadeCounts(asked=len(members), of_all=answer) if plan.void else None
        return self._counted(answer, counts)

    def _of_cascade(self, asking: Asking, logits: Logits, all_asked: bool) -> ImageAnswer | CorollaError:
        asked = asking.asked(logits) if all_asked else len(logits)
        order = [self.plan.resolved.members[i] for i in asking.cascade.order]
        aligned = asking.aligned(logits)
        members = self._finite(order[:asked], aligned[:asked])
        if isinstance(members, BadScores):
            return members
        rest = self._finite(order[asked:], aligned[asked:])
        of_all = None
        if all_asked and not isinstance(rest, BadScores):
            of_all = asking.answer_of_all(aligned)
        counts = CascadeCounts(asked=asked, of_all=of_all, in_share=of_all is not None)
        return self._counted(asking.answer(members), counts)

    def _finite(self, members: Sequence[Member], logits: Sequence[Array]) -> Sequence[Array] | BadScores:
        for member, z in zip(members, logits, strict=False):
            if not np.isfinite(z).all():
                self.recorder.invalid_scores(self.plan.named, member.name)
                return BadScores(
                    f"{member} gave scores that are not finite",
                    remedy="look at the image's values and at alpha, then at the adapter's training",
                )
        return logits

    def _counted(self, answer: Answer, counts: CascadeCounts | None) -> ImageAnswer:
        plan = self.plan
        recorded = self.recorder.answer(plan.named, plan.resolved, self.domain, answer, counts)
        return _image_answer(answer, recorded)


def _image_answer(answer: Answer, recorded: Recorded) -> ImageAnswer:
    votes = [None if vote == NOT_ASKED else int(vote) for vote in answer.votes[0]]
    confidences = zip(votes, answer.confidences[0], strict=True)
    return ImageAnswer(
        probabilities=answer.probabilities[0],
        predicted=int(answer.predicted[0]),
        votes=tuple(votes),
        confidences=tuple(None if vote is None else float(confidence) for vote, confidence in confidences),
        agreement=float(answer.agreement[0]),
        entropy=float(answer.entropy[0]),
        mutual_information=float(answer.mutual_information[0]),
        prediction_id=recorded.prediction_id,
        label_request=recorded.label_request,
    )
