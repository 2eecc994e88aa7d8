"""Images that are counted, and what a scrape then shows."""

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.metrics.events import Metrics


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


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def series(metrics: Metrics, name: str, **labels: str) -> list[dict[str, str]]:
    """The labels of the samples of a name; `labels` are among them."""
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    samples = [sample.labels for family in families for sample in family.samples if sample.name == name]
    return [found for found in samples if labels.items() <= found.items()]
