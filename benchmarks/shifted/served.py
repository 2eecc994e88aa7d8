"""One route as a server counts it, without the server: what every image adds to every counter.

Answers go through `serving.metrics.recorder`, which counts for the server, image by image. Counters add up,
so that the counters of any stream of these images are sums of what each adds.

Shapes: n images of a domain, S series.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from prometheus_client import CollectorRegistry

from benchmarks.shifted.domains import Domain
from model_store.format.reference import Reference, ReferenceData
from model_store.resolution.reference import referenced_route
from petl_vit.combine import Answer, combine
from petl_vit.precision import Precision
from petl_vit.signals import signals
from serving.feedback.counting import count_label
from serving.feedback.decision import decide
from serving.feedback.label import KeptLabel, Source
from serving.metrics.additions import Additions
from serving.metrics.events import Metrics
from serving.metrics.label_values import Domains
from serving.metrics.prediction_ids import PredictionIds
from serving.metrics.recorder import Recorder
from serving.monitor.names import COUNTERS, GAUGES
from serving.monitor.samples import Labels as SeriesLabels
from serving.monitor.samples import Sample
from training.measure.arrays import Flags, Floats, Labels
from training.measure.candidate import Candidate
from training.measure.logits import weights_of
from training.measure.reference import Observed, reference

DOMAIN = "stream"
"""The domain of every stream."""
INSTANCE = "replayed"
_FROZEN = ("corolla_frozen_", "corolla_base_", "corolla_foreign_", "corolla_feature_")

Series = tuple[str, SeriesLabels]


@dataclass(frozen=True, kw_only=True, eq=False)
class Traces:
    """What each image of a domain adds to every counter.

    Attributes:
        name: Of the domain.
        series: [S], names with labels.
        added: [n, S]
        frozen, labelled: [S], whether a series only counts images that the frozen backbone sees too, or that
            are labelled.
        correct: [n], whether the answer is right.
    """

    name: str
    series: tuple[Series, ...]
    added: Floats
    frozen: Flags
    labelled: Flags
    correct: Flags

    def __len__(self) -> int:
        return len(self.correct)

    def part(self, places: Labels) -> "Traces":
        """Some of the images, in this order."""
        return replace(self, added=self.added[places], correct=self.correct[places])

    def sums(self, times: Labels, *, frozen: Labels, labelled: Labels) -> Floats:
        """[..., S]: what images add together.

        Args:
            times: [..., n], how often each is answered.
            frozen, labelled: [..., n], how many of these times the frozen backbone sees it too, and how often
                it is labelled.
        """
        total: Floats = times @ self.added
        for which, seen in ((self.frozen, frozen), (self.labelled, labelled)):
            total[..., which] = seen @ self.added[:, which]
        return total

    def drawn(
        self, random: np.random.Generator, images: int, *, looks: int = 1, frozen: float, labelled: float
    ) -> Floats:
        """[looks, S]: what so many images add at every look, drawn with replacement.

        Args:
            frozen, labelled: Shares of the images.
        """
        times = random.multinomial(images, np.full(len(self), 1 / len(self)), size=looks)
        return self.sums(
            times, frozen=random.binomial(times, frozen), labelled=random.binomial(times, labelled)
        )


def reference_of(route: Candidate, domain: Domain, precision: Precision) -> Reference:
    """The reference of a route on labelled images, as `corolla routes reference` makes it."""
    return reference(
        Observed(
            logits=domain.of(route.route),
            labels=domain.labels,
            features=domain.features,
            base=domain.base.argmax(axis=-1),
        ),
        route=referenced_route(route.route, route.temperature, name=route.name),
        data=ReferenceData(name=domain.name, digest="0" * 64, images=len(domain)),
        classes=route.route.classes,
        precision=precision,
    )


class Served:
    """A named route with its reference, and the counters of one server that answers by it."""

    def __init__(self, route: Candidate, compared: Reference) -> None:
        self.route, self.reference = route, compared
        self.name = f"{route.route.task.spec.name}/{route.name or 'watched'}"
        self._registry = CollectorRegistry()
        self._metrics = Metrics(self._registry, Domains([DOMAIN]))
        self._metrics.restore({})  # no label was kept before
        self._prediction_ids = PredictionIds(bytes(32))
        self._recorder = Recorder(self._metrics, self._prediction_ids)
        self._recorder.announce(self.name, route.route)
        self._metrics.set_reference(self.name, compared)

    def traces(self, domain: Domain) -> Traces:
        """Counts every image of a domain once."""
        answer = self._answer(domain)
        correct = answer.predicted == domain.labels
        before = self._counters()
        series = tuple(before)
        rows = [np.array([before[one] for one in series])]
        for place in range(len(domain)):
            self._count(_one(answer, place), domain, place)
            now = self._counters()
            assert len(now) == len(series), "a series appeared late"
            rows.append(np.array([now[one] for one in series]))
        return Traces(
            name=domain.name,
            series=series,
            added=np.diff(np.stack(rows), axis=0),
            frozen=np.array([name.startswith(_FROZEN) for name, _ in series]),
            labelled=np.array(["_feedback_" in name for name, _ in series]),
            correct=correct,
        )

    def rescored(self, traces: Traces, domain: Domain) -> Traces:
        """As `traces` of the domain, from those that were counted under another reference of the route."""
        scoring = self._metrics.scoring(self.name, self.reference.route.digest)
        assert scoring is not None, "the reference is of another route"
        expected = signals(self._answer(domain)).expected(scoring.thresholds)
        distances = np.array([scoring.distance(features) for features in domain.features])
        added = traces.added.copy()
        for column, (name, labels) in enumerate(traces.series):
            method = dict(labels).get("method", "")
            if name == "corolla_estimated_correct_total" and method in expected:
                added[:, column] = expected[method]
            elif name == "corolla_foreign_inputs_total":
                added[:, column] = distances > 1
        return replace(traces, added=added)

    def gauges(self) -> list[Sample]:
        """What the server says of the route's reference."""
        return self._samples(GAUGES)

    def _answer(self, domain: Domain) -> Answer:
        route = self.route.route
        weights, temperature = weights_of(route), self.route.temperature
        return combine(domain.of(route), weights, rule=route.combine, temperature=temperature)

    def _count(self, answer: Answer, domain: Domain, place: int) -> None:
        """One image: answered, seen by the frozen backbone, and labelled."""
        digest, predicted = self.reference.route.digest, int(answer.predicted[0])
        (said,) = self._recorder.answers(self.name, self.route.route, DOMAIN, answer, digest=digest)
        features, base = domain.features[place], domain.base[place]
        self._recorder.frozen(self.name, DOMAIN, predicted, features, base, digest=digest)
        label = KeptLabel(truth=(int(domain.labels[place]),), source=Source.GOLD, revision=0)
        additions, prediction = Additions(), self._prediction_ids.open(said.prediction_id)
        where = self._metrics.place(self.name, DOMAIN)
        count_label(additions, where, prediction, label, decide((), label), delay_s=60.0)
        self._metrics.add(additions)

    def _counters(self) -> dict[Series, float]:
        return {
            (one.name, one.labels): one.value
            for one in self._samples(COUNTERS)
            if ("route", self.name) in one.labels and dict(one.labels).get("domain", DOMAIN) == DOMAIN
        }

    def _samples(self, names: Sequence[str]) -> list[Sample]:
        wanted = frozenset(names)
        return [
            Sample(
                name=one.name, instance=INSTANCE, labels=tuple(sorted(one.labels.items())), value=one.value
            )
            for family in self._registry.collect()
            for one in family.samples
            if one.name in wanted
        ]


def sample(name: str, labels: SeriesLabels, value: float) -> Sample:
    """A value as the evaluator reads it."""
    return Sample(name=name, instance=INSTANCE, labels=labels, value=value)


def _one(answer: Answer, place: int) -> Answer:
    """The answer for one image."""
    return Answer(**{field.name: getattr(answer, field.name)[place : place + 1] for field in fields(answer)})
