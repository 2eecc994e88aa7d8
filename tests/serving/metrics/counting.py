"""Images and labels that are counted, and what a scrape then shows."""

from collections.abc import Mapping

from serving.feedback.counting import count_label
from serving.feedback.decision import decide
from serving.feedback.label import KeptLabel, Source
from serving.metrics.additions import Additions
from serving.metrics.events import Metrics
from serving.metrics.prediction_ids import Prediction


def predict(metrics: Metrics, route: str = "all", domain: str = "clinic-a", **changes: object) -> None:
    """Counts one image that three members answered, two of them alike."""
    said: dict[str, object] = {
        "predicted": 3,
        "votes": [3, 3, 5],
        "confidence": 0.87,
        "entropy": 0.4,
        "mutual_information": 0.05,
        "agreement": 2 / 3,
    }
    metrics.prediction(route=route, domain=domain, **(said | changes))  # type: ignore[arg-type]


def label(
    metrics: Metrics,
    route: str = "all",
    domain: str = "clinic-a",
    *,
    correct: bool,
    members: Mapping[str, bool],
    confidence: float = 0.87,
    inclusion: float | None = None,
    delay_s: float = 1.0,
) -> None:
    """Counts the first label of an image; `members` says of each whether it was right."""
    prediction = Prediction(
        route=route,
        domain=domain,
        task="digits",
        task_digest="0" * 64,
        predicted=int(correct),
        votes=tuple(map(int, members.values())),
        members=tuple(members),
        confidence=confidence,
        created_at=0.0,
        inclusion=inclusion,
    )
    kept, additions = KeptLabel(truth=(1,), source=Source.USER, revision=0), Additions()
    place = metrics.place(route, domain)
    count_label(additions, place, prediction, kept, decide([], kept), delay_s=delay_s)
    metrics.add(additions)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def series(metrics: Metrics, name: str, **labels: str) -> list[dict[str, str]]:
    """The labels of the samples of a name; `labels` are among them."""
    samples = (sample for family in metrics.registry.collect() for sample in family.samples)
    return [s.labels for s in samples if s.name == name and labels.items() <= s.labels.items()]


def counts(metrics: Metrics, name: str, label: str, **labels: str) -> dict[str, float]:
    """The values of the samples of a name by one of their labels; `labels` are among the others."""
    samples = (sample for family in metrics.registry.collect() for sample in family.samples)
    return {
        s.labels[label]: s.value for s in samples if s.name == name and labels.items() <= s.labels.items()
    }
