import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from model_store.routes.text import parse_route
from petl_vit.errors import CorollaError, Draining, NotFound
from serving.answer.classifier import Classifier
from serving.request import Request, Response
from serving.torchserve.embedded import Embedded
from serving.torchserve.requests import request_of as torchserve_request
from tests.serving.world import REORDERED, WAIT_S, Running, World, encoded


def request_of(route: str = "lora", seed: int = 0) -> Request:
    return Request(task="shapes", route=parse_route(route), images=[encoded(seed)])


def best(response: Response) -> list[float]:
    (image,) = response.images
    assert not isinstance(image, CorollaError)
    return [float(p) for p in image.probabilities]


def route_of(response: Response) -> str:
    return str(response.resolved)


@pytest.fixture(scope="module")
def embedded(world: World) -> Iterator[Embedded]:
    embedded = Embedded(world.settings())
    yield embedded
    embedded.close()


def test_its_answers_are_those_of_a_server(embedded: Embedded, running: Running) -> None:
    answers = embedded.answer([(request_of("lora"), best), (request_of("lora, ssf", 1), best)])

    with running.client() as client:
        for answer, seed, route in zip(answers, (0, 1), ("lora", "lora, ssf"), strict=True):
            reply = client.classify([encoded(seed)], route=route, task="shapes", probabilities=True)
            assert answer == pytest.approx(list(reply.results[0].probabilities), rel=1e-4)


def test_the_document_says_the_task_and_how_the_domain_was_counted(embedded: Embedded) -> None:
    row = {"image": encoded(0), "route": "shapes/lora", "task": "reordered", "domain": "stret"}
    asked = torchserve_request(row)
    (document,) = embedded.answer([(asked.request, asked.document)])

    assert isinstance(document, dict)
    assert (document["task"], document["domain"]) == ("reordered", "other")
    assert document["domain_note"].endswith("did you mean street?")
    assert {"prediction_id", "label_request"} <= document["results"][0].keys()
    best_class = document["results"][0]["top"][0]
    assert REORDERED[best_class["class_index"]] == best_class["class_name"]


def test_requests_that_come_together_share_a_forward(embedded: Embedded) -> None:
    def batches() -> float:
        return embedded.registry.get_sample_value("corolla_batch_rows_count") or 0

    before = batches()
    embedded.answer([(request_of(seed=seed), best) for seed in range(20)])

    assert batches() - before < 10


def test_an_error_stands_in_the_place_of_its_request(embedded: Embedded) -> None:
    first, second, third = embedded.answer(
        [(request_of(), best), (request_of("nowhere"), best), (request_of("ssf"), best)]
    )

    assert isinstance(first, list)
    assert isinstance(second, NotFound)
    assert isinstance(third, list)


def test_no_request_gets_no_answer(embedded: Embedded) -> None:
    assert embedded.answer([]) == []


def test_a_store_without_its_backbone_is_said_at_once(world: World) -> None:
    with pytest.raises(NotFound, match="no backbone 'other'"):
        Embedded(world.settings(backbone="other"))


def test_it_refuses_after_its_end_and_ends_twice(world: World) -> None:
    embedded = Embedded(world.settings())
    embedded.close()
    embedded.close()

    with pytest.raises(Draining, match="closed"):
        embedded.answer([(request_of(), best)])


def test_work_raises_what_it_met(embedded: Embedded) -> None:
    async def work(classifier: Classifier) -> None:
        raise NotFound("nothing here")

    with pytest.raises(NotFound, match="nothing here"):
        embedded.run(work)


def test_work_whose_caller_is_interrupted_is_cancelled(
    embedded: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, cancelled = threading.Event(), threading.Event()
    result = Future.result

    async def work(classifier: Classifier) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    def interrupted(future: Future[Any], timeout: float | None = None) -> Any:
        """Ctrl-C while the caller waits; a real signal could come just before it does, and be lost."""
        if threading.current_thread() is not threading.main_thread():
            return result(future, timeout)
        assert started.wait(WAIT_S)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embedded.run(work)
    assert cancelled.wait(WAIT_S)


def test_names_that_moved_are_followed_on_request(own_world: World) -> None:
    embedded = Embedded(own_world.settings(refresh_s=WAIT_S))
    try:
        request = request_of("lora@prod")
        assert embedded.answer([(request, route_of)]) == ["lora:1"]
        own_world.store.adapters.set_alias("shapes", "lora", "prod", 2)
        assert embedded.answer([(request, route_of)]) == ["lora:1"]
        embedded.follow()
        assert embedded.answer([(request, route_of)]) == ["lora:2"]
    finally:
        embedded.close()
