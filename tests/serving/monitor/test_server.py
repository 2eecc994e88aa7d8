"""The evaluator over a real server: what it says is what was answered and labelled."""

import pytest

from model_store.resolution.answering import answering
from model_store.resolution.reference import route_of
from serving.monitor.alarms import SequentialAlarms
from serving.monitor.confusion import Confusions
from serving.monitor.evaluator import Evaluator
from serving.monitor.sources import ServerSource
from serving.monitor.status import DomainStatus, RouteStatus
from tests.model_store.references import usable_of
from tests.serving.world import SHAPES, Running, World, encoded, until

IMAGES = 6


def looked(evaluator: Evaluator) -> tuple[RouteStatus, DomainStatus]:
    status = evaluator.look()
    assert status.problems == ()
    (route,) = (one for one in status.routes if one.route == "shapes/best")
    (domain,) = (one for one in route.domains if one.domain == "studio")
    return route, domain


def test_a_status_is_what_a_server_answered_and_what_labels_said(own_world: World) -> None:
    store = own_world.store
    named = store.routes.get("shapes", "best")
    store.references.put(usable_of(route_of(named, answering(store, named))))
    with Running(own_world.settings(refresh_s=0.05)) as running, running.client() as client:
        evaluator = Evaluator(
            ServerSource(f"127.0.0.1:{running.server.metrics_port}"),
            alarms=SequentialAlarms(),
            confusions=Confusions(store.references),
        )
        answers = client.classify(
            [encoded(seed) for seed in range(IMAGES)], route="best", task="shapes", domain="studio"
        ).results
        wrong = SHAPES[(SHAPES.index(answers[0].top[0].class_name) + 1) % len(SHAPES)]
        client.feedback(
            [(one.prediction_id, one.top[0].class_name) for one in answers[1:]]
            + [(answers[0].prediction_id, wrong)]
        )

        route, domain = looked(evaluator)

        assert (route.problem, domain.images, domain.images_in_window) == ("", IMAGES, IMAGES)
        mean = sum(one.top[0].probability for one in answers) / IMAGES
        agreement = sum(one.agreement for one in answers) / IMAGES
        assert domain.confidence == pytest.approx(mean, abs=1e-6)
        assert domain.agreement == pytest.approx(agreement, abs=1e-6)
        estimates = {one.method: one for one in domain.estimates}
        assert {"atc_mc", "confidence", "doc", "vote", "slope1"} <= {*estimates}
        assert estimates["confidence"].value == pytest.approx(mean, abs=1e-6)
        assert estimates["vote"].raw == pytest.approx(agreement, abs=1e-6)
        assert domain.measured is not None
        assert (domain.measured.labels, domain.measured.accuracy) == (IMAGES, pytest.approx(1 - 1 / IMAGES))
        assert [member.member for member in domain.members] == sorted(
            member.member for member in domain.members if member.labels == IMAGES
        )
        assert domain.threshold is not None
        assert domain.alarms == ()

        own_world.put_route("best", "lora, ssf, 0.5*bitfit", temperature=3.0)
        until(lambda: "measure it again" in looked(evaluator)[0].problem)
        assert looked(evaluator)[1].estimates == ()
