"""A server compares its named routes with the references in its store, and follows what answers."""

from model_store.resolution.answering import answering
from model_store.resolution.reference import route_of
from tests.model_store.references import usable_of
from tests.serving.world import Running, World, encoded, until

BEST = {"route": "shapes/best"}


def test_answers_are_scored_by_the_reference_until_the_route_is_answered_otherwise(own_world: World) -> None:
    store = own_world.store
    named = store.routes.get("shapes", "best")
    reference = usable_of(route_of(named, answering(store, named)))
    store.references.put(reference)
    scored = BEST | {"domain": "unset", "method": "atc_mc"}
    with Running(own_world.settings(refresh_s=0.05)) as running, running.client() as client:
        assert running.value("corolla_reference_images", **BEST) == 2
        assert running.value("corolla_reference_accuracy_ratio", **BEST) == 0.5
        assert running.value("corolla_temperature_ratio", **BEST) == 2.0
        client.classify([encoded(0), encoded(1)], route="best", task="shapes")
        assert running.value("corolla_estimated_predictions_total", **scored) == 2

        own_world.put_route("best", "lora, ssf, 0.5*bitfit", temperature=3.0)
        until(lambda: running.value("corolla_reference_stale", **BEST) == 1)
        assert running.value("corolla_reference_images", **BEST) == 0
        assert running.value("corolla_temperature_ratio", **BEST) == 3.0
        client.classify([encoded(0)], route="best", task="shapes")
        assert running.value("corolla_estimated_predictions_total", **scored) == 2
        assert running.value("corolla_predictions_total", **BEST, domain="unset") == 3
