"""What the classifier records of its answers: routes by name, images, scores, and a prediction id for each.

Knows resolved routes and answers; knows neither requests nor what computes.
"""

import time
from collections.abc import Sequence

from model_store.resolution.versions import ResolvedRoute
from petl_vit.combine import Answer
from petl_vit.errors import CorollaError
from serving.metrics.events import Metrics
from serving.metrics.label_values import ADHOC
from serving.metrics.prediction_ids import Prediction, PredictionIds


class Recorder:
    """Counts answers, and seals what their labels will need into prediction ids. Its methods are blocking."""

    def __init__(self, metrics: Metrics, prediction_ids: PredictionIds) -> None:
        self._metrics, self._prediction_ids = metrics, prediction_ids
        self._announced: dict[str, str] = {}
        self._labels: dict[str, str] = {}

    def announce(self, named: str | None, resolved: ResolvedRoute) -> None:
        """Makes a named route known to the metrics, with the versions of its members; ignores any other."""
        if named is None or self._announced.get(named) == str(resolved):
            return
        members = [member.name for member in resolved.members]
        self._labels[named] = self._metrics.add_route(named, members, resolved.classes)
        labels = self._metrics.known_routes.get(named, ())
        for label, member in zip(labels, resolved.members, strict=False):
            self._metrics.set_adapter(
                route=named,
                member=label,
                version=str(member),
                method="+".join(term.method for term in member.terms),
                digest="+".join(term.digest[:12] for term in member.terms),
            )
        self._announced[named] = str(resolved)

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

    def answer(self, named: str | None, resolved: ResolvedRoute, domain: str, answer: Answer) -> str:
        """Counts the answer for one image.

        Args:
            named: The route's name, announced before; None where it has none.
            domain: As the client sent it, or as `domain` has it.
            answer: Of one image.

        Returns:
            Its prediction id.
        """
        route, domain = self._label(named), self._metrics.domains.label(domain)
        predicted = int(answer.predicted[0])
        votes = tuple(int(vote) for vote in answer.votes[0])
        confidence = float(answer.probabilities[0, predicted])
        self._metrics.prediction(
            route=route,
            domain=domain,
            predicted=predicted,
            class_name=resolved.classes[predicted],
            votes=votes,
            confidence=confidence,
            entropy=float(answer.entropy[0]),
            mutual_information=float(answer.mutual_information[0]),
            agreement=float(answer.agreement[0]),
        )
        prediction = Prediction(
            route=route,
            domain=domain,
            task=resolved.task.spec.name,
            task_digest=resolved.task.digest,
            predicted=predicted,
            votes=votes,
            members=self._metrics.known_routes.get(route, ()),
            confidence=confidence,
            created_at=time.time(),
        )
        return self._prediction_ids.seal(prediction)

    def _label(self, named: str | None) -> str:
        """The route's label in the metrics."""
        return ADHOC if named is None else self._labels[named]
