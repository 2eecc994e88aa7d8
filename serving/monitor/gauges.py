"""The evaluator's own metrics: what it knows, as gauges, in a registry of their own."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.metrics.series import Definition
from serving.monitor.status import DomainStatus, Interval, Status

KINDS = ("shift", "accuracy")


def _gauge(name: str, labels: str, text: str) -> Definition:
    return Definition(name=name, kind="gauge", labels=tuple(labels.split()), help=text)


DEFINITIONS = (
    _gauge(
        "corolla_estimated_accuracy_ratio",
        "route domain method",
        "Accuracy in the window by one method, without labels.",
    ),
    _gauge(
        "corolla_estimated_accuracy_low_ratio", "route domain method", "Lower end of its interval at 95 %."
    ),
    _gauge(
        "corolla_estimated_accuracy_high_ratio", "route domain method", "Upper end of its interval at 95 %."
    ),
    _gauge(
        "corolla_estimate_trusted",
        "route domain method",
        "1 where an estimate takes part in the median, 0 where its own conditions do not hold.",
    ),
    _gauge("corolla_accuracy_headline_ratio", "route domain", "Median of the estimates that are trusted."),
    _gauge("corolla_accuracy_headline_low_ratio", "route domain", "The lowest that their intervals reach."),
    _gauge("corolla_accuracy_headline_high_ratio", "route domain", "The highest that their intervals reach."),
    _gauge(
        "corolla_accuracy_headline_trusted",
        "route domain",
        "0 where the estimates differ too much, or too many images are unlike the reference's.",
    ),
    _gauge("corolla_estimate_spread_ratio", "route domain", "Highest less lowest of the trusted estimates."),
    _gauge(
        "corolla_agreement_line_r2_ratio",
        "route domain",
        "How well the pairs' agreements lie on a line; below 0.95 no estimate is made from it.",
    ),
    _gauge(
        "corolla_prediction_powered_accuracy_ratio",
        "route domain",
        "Accuracy by requested labels and all predictions.",
    ),
    _gauge(
        "corolla_prediction_powered_accuracy_low_ratio", "route domain", "Lower end of its interval at 95 %."
    ),
    _gauge(
        "corolla_prediction_powered_accuracy_high_ratio", "route domain", "Upper end of its interval at 95 %."
    ),
    _gauge(
        "corolla_post_stratified_accuracy_ratio",
        "route domain",
        "Accuracy by the labels at hand, bins of confidence weighted as among all images.",
    ),
    _gauge(
        "corolla_post_stratified_accuracy_low_ratio", "route domain", "Lower end of its interval at 95 %."
    ),
    _gauge(
        "corolla_post_stratified_accuracy_high_ratio", "route domain", "Upper end of its interval at 95 %."
    ),
    _gauge(
        "corolla_evidence",
        "route domain indicator",
        "Evidence against unshifted traffic: the logarithm to base 10 of an e-value.",
    ),
    _gauge("corolla_evidence_threshold", "route domain", "Evidence at which an alarm is raised."),
    _gauge("corolla_alarm", "route domain kind", "1 while an alarm is raised."),
    _gauge(
        "corolla_evaluator_last_run_timestamp_seconds",
        "",
        "When the source was last read; 0 before the first time.",
    ),
    _gauge(
        "corolla_evaluator_problems", "", "What may be missing or wrong now; the evaluator's page says what."
    ),
)

_Value = tuple[str, tuple[str, ...], float]


class Gauges(Collector):
    """What a scrape shows of the newest status.

    Args:
        status: Gives it.
    """

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def describe(self) -> Iterable[Metric]:
        """The families without values."""
        return [_family(definition) for definition in DEFINITIONS]

    def collect(self) -> Iterator[Metric]:
        """The families with values; those of a number that is not known have none."""
        families = {definition.name: _family(definition) for definition in DEFINITIONS}
        for name, labels, value in _values(self._status()):
            families[name].add_metric(labels, value)
        yield from families.values()


def _family(definition: Definition) -> GaugeMetricFamily:
    return GaugeMetricFamily(definition.name, definition.help, labels=definition.labels)


def _values(status: Status) -> Iterator[_Value]:
    yield "corolla_evaluator_last_run_timestamp_seconds", (), status.at
    yield "corolla_evaluator_problems", (), float(len(status.problems))
    for route in status.routes:
        for domain in route.domains:
            yield from _of_domain((route.route, domain.domain), domain)


def _of_domain(place: tuple[str, str], domain: DomainStatus) -> Iterator[_Value]:
    for estimate in domain.estimates:
        labels = (*place, estimate.method)
        yield "corolla_estimated_accuracy_ratio", labels, estimate.value
        yield "corolla_estimated_accuracy_low_ratio", labels, estimate.low
        yield "corolla_estimated_accuracy_high_ratio", labels, estimate.high
        yield "corolla_estimate_trusted", labels, float(estimate.trusted)
    if domain.headline is not None:
        yield "corolla_accuracy_headline_ratio", place, domain.headline.value
        yield "corolla_accuracy_headline_low_ratio", place, domain.headline.low
        yield "corolla_accuracy_headline_high_ratio", place, domain.headline.high
        yield "corolla_accuracy_headline_trusted", place, float(domain.headline.trusted)
        yield "corolla_estimate_spread_ratio", place, domain.headline.spread
    if domain.line is not None:
        yield "corolla_agreement_line_r2_ratio", place, domain.line.r2
    if domain.measured is not None:
        yield from _interval("corolla_prediction_powered_accuracy", place, domain.measured.prediction_powered)
        yield from _interval("corolla_post_stratified_accuracy", place, domain.measured.post_stratified)
    for indicator, value in domain.evidence.items():
        yield "corolla_evidence", (*place, indicator), value
    if domain.threshold is not None:
        yield "corolla_evidence_threshold", place, domain.threshold
        raised = {alarm.kind for alarm in domain.alarms}
        for kind in KINDS:
            yield "corolla_alarm", (*place, kind), float(kind in raised)


def _interval(name: str, place: tuple[str, str], interval: Interval | None) -> Iterator[_Value]:
    if interval is not None:
        yield f"{name}_ratio", place, interval.value
        yield f"{name}_low_ratio", place, interval.low
        yield f"{name}_high_ratio", place, interval.high
