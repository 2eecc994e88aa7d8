"""Signals through a running server: scored by the store's reference, with exemplars, and a roll-out."""

import http.client

import numpy as np
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from model_store.routes.text import parse_route
from serving.registry.catalog import Catalog
from serving.service import Service
from tests.serving.metrics.references import reference_of
from tests.serving.world import WAIT_S, Running, World, encoded, until

PLACE = {"route": "shapes/unsure", "domain": "unset"}
IMAGES = [encoded(seed) for seed in range(4)]


def scraped(running: Running) -> str:
    """What the metrics port answers a scraper that asks for OpenMetrics."""
    connection = http.client.HTTPConnection("127.0.0.1", running.server.metrics_port, timeout=WAIT_S)
    connection.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def test_answers_are_scored_until_a_roll_out_makes_the_reference_stale(own_world: World) -> None:
    # At this temperature three classes are about equally probable: every answer is unsure.
    own_world.put_route("unsure", "lora, ssf, bitfit", temperature=1000.0)
    catalog = Catalog(own_world.store, own_world.backbone.digest)
    plan = catalog.plan("shapes", parse_route("unsure"), extrapolate=False)
    features = np.random.default_rng(0).normal(size=(60, 48))
    own_world.store.references.put(reference_of(plan, features))

    def scored(running: Running) -> float:
        return running.value("corolla_estimated_predictions_total", **PLACE, method="atc_mc")

    settings = own_world.settings(frozen_share=1.0, refresh_s=0.02)
    with Running(settings) as running, running.client() as client:
        ids = [r.prediction_id for r in client.classify(IMAGES, route="unsure", task="shapes").results]
        assert scored(running) == 4
        assert running.value("corolla_frozen_predictions_total", **PLACE) == 4
        assert running.value("corolla_feature_distance_ratio_count", **PLACE) == 4

        families = text_string_to_metric_families(scraped(running))
        shown = [s.exemplar.labels for f in families for s in f.samples if s.exemplar is not None]
        assert shown
        assert all(any(i.startswith(labels["prediction_id"]) for i in ids) for labels in shown)

        own_world.publish("shapes", "lora", seed=99)
        until(lambda: running.value("corolla_reference_stale", route="shapes/unsure") == 1)
        client.classify(IMAGES, route="unsure", task="shapes")
        assert scored(running) == 4
        assert running.value("corolla_estimated_predictions_total", **PLACE, method="confidence") == 8
        assert running.value("corolla_frozen_predictions_total", **PLACE) == 8
        assert running.value("corolla_feature_distance_ratio_count", **PLACE) == 4


def test_a_reference_that_is_read_before_its_route_is_announced_is_in_use(own_world: World) -> None:
    """The watcher may look at references while a server still warms up."""
    catalog = Catalog(own_world.store, own_world.backbone.digest)
    plan = catalog.plan("shapes", parse_route("best"), extrapolate=False)
    own_world.store.references.put(reference_of(plan, np.random.default_rng(0).normal(size=(60, 48))))
    service = Service(own_world.settings())
    try:
        service.references.follow()
        service.classifier.announce(plan)
        assert service.metrics.scoring("shapes/best", plan.digest) is not None
    finally:
        service.close()
