"""What the classifier records of its answers: routes by name, images, scores, and a prediction id for each.

Knows resolved routes and answers; knows neither requests nor what computes.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model_store.resolution.versions import ResolvedRoute
from petl_vit.cascade import NOT_ASKED
from petl_vit.combine import Answer, Array, Combine
from petl_vit.errors import CorollaError
from petl_vit.signals import VOTE, signals
from serving.metrics.answers import Answered
from serving.metrics.events import Metrics
from serving.metrics.label_requests import LabelRequest, Sampling
from serving.metrics.label_values import ADHOC, FROZEN
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
                method="+".join(term.method for term in member.adapters),
                digest="+".join(term.digest[:12] for term in member.adapters),
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

    def answers(
        self,
        named: str | None,
        resolved: ResolvedRoute,
        domain: str,
        answer: Answer,
        cascades: Sequence[CascadeCounts] = (),
        *,
        digest: str = "",
    ) -> list[Recorded]:
        """Counts the answers for images.

        How a cascade's members vote and agree is counted only where all of them were asked, whatever the
        answer needed: those that are asked last would else be seen on hard images alone.

        Args:
            named: The route's name, announced before; None where it has none.
            domain: As the client sent it, or as `domain` has it.
            answer: Of n images.
            cascades: What else is counted of a cascade, n of them; none for any other route.
            digest: Of what answered, which a reference has to be of.
        """
        route, domain = self._label(named), self._metrics.domains.label(domain)
        scoring = self._metrics.scoring(route, digest)
        own = _Own.each(answer, {} if scoring is None else scoring.thresholds)
        votes = [_Votes.of(one.of_all) for one in cascades] if cascades else _Votes.each(answer)
        recorded = [self._sealed(route, domain, resolved, *said) for said in zip(own, votes, strict=True)]
        said = zip(own, votes, recorded, strict=True)
        images = [_answered(resolved.classes, *one) for one in said]
        self._metrics.predictions(route, domain, images)
        for one, image in zip(cascades, images, strict=False):
            as_all = image.voted == image.predicted if one.in_share and image.votes else None
            self._metrics.cascade(route=route, domain=domain, asked=one.asked, as_all=as_all)
        return recorded

    def frozen(
        self, named: str, domain: str, predicted: int, features: Array, base: Array, *, digest: str
    ) -> None:
        """Counts what the frozen backbone says of an image that a named route answered.

        Args:
            domain, digest: As of `answers`.
            predicted: The class of the answer.
            features: [D]
            base: [C], the logits of the task's base head.
        """
        route = self._label(named)
        if not (np.isfinite(features).all() and np.isfinite(base).all()):
            self._metrics.invalid_scores(route, FROZEN)
            return
        scoring = self._metrics.scoring(route, digest)
        self._metrics.frozen(
            route=route,
            domain=self._metrics.domains.label(domain),
            override=int(base.argmax()) != predicted,
            distance=None if scoring is None else scoring.distance(features),
        )

    def _sealed(
        self, route: str, domain: str, resolved: ResolvedRoute, own: "_Own", votes: "_Votes"
    ) -> Recorded:
        nonce = new_nonce()
        request = self._sampling.draw(nonce, 1 - own.agreement)
        if request is not None:
            self._metrics.label_requested(route, domain, request.reason)
        prediction = Prediction(
            route=route,
            domain=domain,
            task=resolved.task.spec.name,
            task_digest=resolved.task.digest,
            predicted=own.predicted,
            votes=votes.votes or own.votes,
            members=self._metrics.known_routes.get(route, ()) if votes.votes else (),
            confidence=own.confidence,
            created_at=time.time(),
            nonce=nonce,
            inclusion=None if request is None else request.probability,
        )
        return Recorded(prediction_id=self._prediction_ids.seal(prediction), label_request=request)

    def _label(self, named: str | None) -> str:
        """The route's label in the metrics."""
        return ADHOC if named is None else self._labels[named]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Own:
    """What one answer says by itself; its votes are None where a cascade did not ask."""

    predicted: int
    votes: tuple[int | None, ...]
    agreement: float
    confidence: float
    margin: float
    entropy: float
    expected: dict[str, float]

    @classmethod
    def each(cls, answer: Answer, thresholds: Mapping[str, float]) -> "list[_Own]":
        """Of every image of an answer."""
        told = signals(answer)
        expected = {name: shares.tolist() for name, shares in told.expected(thresholds).items()}
        votes = answer.votes.tolist()
        columns = (answer.predicted, answer.agreement, told.confidence, told.margin, answer.entropy)
        return [
            cls(
                predicted=predicted,
                votes=tuple(None if vote == NOT_ASKED else vote for vote in votes[i]),
                agreement=agreement,
                confidence=confidence,
                margin=margin,
                entropy=entropy,
                expected={name: shares[i] for name, shares in expected.items()},
            )
            for i, (predicted, agreement, confidence, margin, entropy) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True)
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Votes:
    """How all members voted on one image, and what they answer together; no votes where none are counted."""

    votes: tuple[int, ...] = ()
    predicted: int | None = None
    agreement: float = 1.0
    mutual_information: float = 0.0

    @classmethod
    def each(cls, answer: Answer) -> "list[_Votes]":
        """Of every image of an answer by all members."""
        columns = (answer.votes, answer.predicted, answer.agreement, answer.mutual_information)
        return [
            cls(votes=tuple(votes), predicted=predicted, agreement=agreement, mutual_information=information)
            for votes, predicted, agreement, information in zip(*(c.tolist() for c in columns), strict=True)
        ]

    @classmethod
    def of(cls, answer: Answer | None) -> "_Votes":
        """Of one image; None where it was not put to all members."""
        return cls() if answer is None else cls.each(answer)[0]


def _answered(classes: Sequence[str], own: _Own, votes: _Votes, recorded: Recorded) -> Answered:
    expected = {name: share for name, share in own.expected.items() if name != VOTE}
    if len(votes.votes) > 1:
        expected[VOTE] = votes.agreement
    return Answered(
        predicted=own.predicted,
        class_name=classes[own.predicted],
        votes=votes.votes,
        voted=votes.predicted,
        confidence=own.confidence,
        margin=own.margin,
        entropy=own.entropy,
        mutual_information=votes.mutual_information,
        agreement=votes.agreement,
        expected=expected,
        prediction_id=recorded.prediction_id,
    )
