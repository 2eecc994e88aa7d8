"""What the classifier records of its answers: routes by name, images, scores, and a prediction id for each.

Knows resolved routes and answers; knows neither requests nor what computes.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from model_store.resolution.versions import ResolvedRoute
from petl_vit.cascade import NOT_ASKED
from petl_vit.combine import Answer, Combine
from petl_vit.errors import CorollaError
from serving.metrics.events import Metrics
from serving.metrics.label_requests import LabelRequest, Sampling
from serving.metrics.label_values import ADHOC
from serving.metrics.prediction_ids import Prediction, PredictionIds, new_nonce


@dataclass(frozen=True, kw_only=True)
class CascadeCounts:
    """What is counted of a cascade's answer for one image, besides the answer.

    Attributes:
        asked: How many members the answer is of.
        of_all: What all members answer, where that says how they agree on a fair sample of the images; None
            where it does not.
        in_share: Whether that sample is the share that is put to all members, whatever an answer needs.
    """

    asked: int
    of_all: Answer | None = None
    in_share: bool = False


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What an answer for one image brings along for its label.

    Attributes:
        label_request: None where its label is not requested.
    """

    prediction_id: str
    label_request: LabelRequest | None


class Recorder:
    """Counts answers, and seals what their labels will need into prediction ids. Its methods are blocking.

    Args:
        sampling: Draws the images whose labels are requested; by default none.
    """

    def __init__(
        self, metrics: Metrics, prediction_ids: PredictionIds, sampling: Sampling | None = None
    ) -> None:
        self._metrics, self._prediction_ids = metrics, prediction_ids
        self._sampling = sampling or Sampling()
        self._announced: dict[str, tuple[str, bool]] = {}
        self._labels: dict[str, str] = {}

    def announce(self, named: str | None, resolved: ResolvedRoute, *, void: bool = False) -> None:
        """Makes a named route known to the metrics, with the versions of its members; ignores any other.

        Args:
            void: Whether it is a cascade whose thresholds do not apply.
        """
        if named is None or self._announced.get(named) == (str(resolved), void):
            return
        members = [member.name for member in resolved.members]
        state = void if resolved.combine is Combine.CASCADE else None
        self._labels[named] = self._metrics.add_route(named, members, resolved.classes, void=state)
        labels = self._metrics.known_routes.get(named, ())
        for label, member in zip(labels, resolved.members, strict=False):
            self._metrics.set_adapter(
                route=named,
                member=label,
                version=str(member),
                method="+".join(term.method for term in member.terms),
                digest="+".join(term.digest[:12] for term in member.terms),
            )
        self._announced[named] = (str(resolved), void)

    def domain(self, text: str) -> tuple[str, str]:
        """What a domain that a client sent is counted as; and, where that is `other`, what to know of it."""
        domains = self._metrics.domains
        return domains.label(text), domains.note(text)

    def images(self, images: Sequence[object]) -> None:
        """Counts the images of an answer; an error among them stands for an image without an answer."""
        invalid = sum(isinstance(image, CorollaError) for image in images)
        self._metrics.images(ok=len(images) - invalid, invalid=invalid)

    def invalid_scores(self, named: str | None, member: str) -> None:
        """Counts one image for which a member gave scores that are not finite."""
        self._metrics.invalid_scores(self._label(named), member)

    def answer(
        self,
        named: str | None,
        resolved: ResolvedRoute,
        domain: str,
        answer: Answer,
        cascade: CascadeCounts | None = None,
    ) -> Recorded:
        """Counts the answer for one image.

        How a cascade's members vote and agree is counted only where all of them were asked, whatever the
        answer needed: those that are asked last would else be seen on hard images alone.

        Args:
            named: The route's name, announced before; None where it has none.
            domain: As the client sent it, or as `domain` has it.
            answer: Of one image.
            cascade: What else is counted of a cascade.
        """
        route, domain = self._label(named), self._metrics.domains.label(domain)
        predicted = int(answer.predicted[0])
        fair = answer if cascade is None else cascade.of_all
        votes = () if fair is None else tuple(int(vote) for vote in fair.votes[0])
        confidence = float(answer.probabilities[0, predicted])
        self._metrics.prediction(
            route=route,
            domain=domain,
            predicted=predicted,
            class_name=resolved.classes[predicted],
            votes=votes,
            voted=None if fair is None else int(fair.predicted[0]),
            confidence=confidence,
            entropy=float(answer.entropy[0]),
            mutual_information=0.0 if fair is None else float(fair.mutual_information[0]),
            agreement=1.0 if fair is None else float(fair.agreement[0]),
        )
        if cascade is not None:
            self._metrics.cascade(
                route=route,
                domain=domain,
                asked=cascade.asked,
                as_all=int(fair.predicted[0]) == predicted if fair is not None and cascade.in_share else None,
            )
        nonce = new_nonce()
        request = self._sampling.draw(nonce, 1 - float(answer.agreement[0]))
        if request is not None:
            self._metrics.label_requested(route, domain, request.reason)
        prediction = Prediction(
            route=route,
            domain=domain,
            task=resolved.task.spec.name,
            task_digest=resolved.task.digest,
            predicted=predicted,
            votes=votes or tuple(None if vote == NOT_ASKED else int(vote) for vote in answer.votes[0]),
            members=self._metrics.known_routes.get(route, ()) if votes else (),
            confidence=confidence,
            created_at=time.time(),
            nonce=nonce,
            inclusion=None if request is None else request.probability,
        )
        return Recorded(prediction_id=self._prediction_ids.seal(prediction), label_request=request)

    def _label(self, named: str | None) -> str:
        """The route's label in the metrics."""
        return ADHOC if named is None else self._labels[named]
