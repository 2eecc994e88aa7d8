"""What is recorded of answers, on a real store's routes."""

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from model_store.resolution.versions import ResolvedRoute
from model_store.routes.text import parse_route
from petl_vit.combine import Answer, Combine, combine
from petl_vit.errors import InvalidInput
from serving.metrics.events import Metrics
from serving.metrics.prediction_ids import PredictionIds
from serving.metrics.recorder import Recorder
from serving.registry.catalog import Catalog
from tests.serving.world import World

PREDICTION_IDS = PredictionIds(b"k" * 32)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def recorder(metrics: Metrics) -> Recorder:
    return Recorder(metrics, PREDICTION_IDS)


@pytest.fixture(scope="module")
def best(world: World) -> ResolvedRoute:
    """The named route shapes/best, of three members."""
    catalog = Catalog(world.store, world.backbone.digest)
    return catalog.plan("shapes", parse_route("best"), extrapolate=False).resolved


def answer(*votes: int) -> Answer:
    """Of one image and three classes."""
    logits = np.array([[np.eye(3)[vote] for vote in votes]])
    return combine(logits, np.ones(len(votes)), rule=Combine.MEAN, temperature=1.0)


def count(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_an_answer_is_counted_and_its_id_says_what_a_label_needs(
    recorder: Recorder, metrics: Metrics, best: ResolvedRoute
) -> None:
    recorder.announce("shapes/best", best)
    (recorded,) = recorder.answers("shapes/best", best, "clinic", answer(1, 1, 2))
    prediction = PREDICTION_IDS.open(recorded.prediction_id)

    assert (prediction.route, prediction.domain, prediction.task) == ("shapes/best", "other", "shapes")
    assert (prediction.predicted, prediction.votes) == (1, (1, 1, 2))
    assert prediction.members == metrics.known_routes["shapes/best"]
    here = {"route": "shapes/best", "domain": "other"}
    assert count(metrics, "corolla_predictions_total", **here) == 1
    assert count(metrics, "corolla_ensemble_predictions_total", **here, consensus="majority") == 1
    by_class = {
        name: count(metrics, "corolla_class_predictions_total", **{"route": "shapes/best", "class": name})
        for name in best.classes
    }
    assert by_class == {"circle": 0, "square": 1, "star": 0}


def test_a_route_without_a_name_is_adhoc(recorder: Recorder, metrics: Metrics, best: ResolvedRoute) -> None:
    recorder.announce(None, best)
    (recorded,) = recorder.answers(None, best, "", answer(0, 0, 0))
    prediction = PREDICTION_IDS.open(recorded.prediction_id)

    assert (prediction.route, prediction.members) == ("adhoc", ())
    assert metrics.known_routes == {}
    assert count(metrics, "corolla_predictions_total", route="adhoc", domain="unset") == 1
    assert not [f for f in metrics.registry.collect() if f.name == "corolla_class_predictions" and f.samples]


def test_images_with_an_error_count_as_invalid(recorder: Recorder, metrics: Metrics) -> None:
    recorder.images([object(), InvalidInput("not an image"), object()])

    assert count(metrics, "corolla_images_total", status="ok") == 2
    assert count(metrics, "corolla_images_total", status="invalid") == 1
