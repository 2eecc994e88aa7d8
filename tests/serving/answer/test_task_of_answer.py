"""The request's task gives the classes and their order, also where the route names other tasks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corolla
from model_store.routes.text import parse_route
from petl_vit.errors import InvalidInput, NotFound
from serving.bulk.run import Bulk, predict
from serving.bulk.sources import Source
from serving.client.admin import AdminClient
from serving.client.blocking import Client
from serving.client.messages import RequestFailed, request_of
from serving.registry.catalog import Catalog
from tests.serving.world import REORDERED, SHAPES, Running, World, encoded

ROUTES = (
    "shapes/lora",
    "0.5*shapes/lora",
    "0.5*shapes/lora + 0.5*shapes/ssf",
    "shapes/base",
    "shapes/lora, reordered/lora",
    "vote(shapes/lora, reordered/lora, shapes/ssf)",
)
REFUSED = (("colours", "INVALID_ARGUMENT"), ("nosuch", "NOT_FOUND"), ("Bad Name", "INVALID_ARGUMENT"))


@pytest.fixture(scope="module")
def client(running: Running) -> Any:
    with running.client() as client:
        yield client


@pytest.mark.parametrize("route", ROUTES)
def test_indices_probabilities_and_votes_are_in_the_order_of_the_task(client: Client, route: str) -> None:
    by_task = {
        task: client.classify([encoded(1)], task=task, route=route, probabilities=True, members=True)
        for task in ("shapes", "reordered")
    }
    shapes, reordered = (reply.results[0] for reply in by_task.values())

    assert {task: reply.task for task, reply in by_task.items()} == {task: task for task in by_task}
    for score in [*reordered.top, *(vote.top for vote in reordered.members)]:
        assert REORDERED[score.class_index] == score.class_name
    assert [score.class_name for score in reordered.top] == [score.class_name for score in shapes.top]
    named = dict(zip(REORDERED, reordered.probabilities, strict=True))
    assert [named[name] for name in SHAPES] == pytest.approx(list(shapes.probabilities), abs=1e-6)


def test_without_a_task_the_first_member_gives_the_classes_and_the_answer_says_so(client: Client) -> None:
    reply = client.classify([encoded(1)], route="reordered/lora, shapes/lora")

    assert reply.task == "reordered"
    assert REORDERED[reply.results[0].top[0].class_index] == reply.results[0].top[0].class_name


@pytest.mark.parametrize(("task", "code"), REFUSED)
def test_a_task_that_is_not_the_routes_is_refused_by_every_call(client: Client, task: str, code: str) -> None:
    request = request_of([encoded(0)], task=task, route="shapes/lora")

    def streamed() -> None:
        ((_, outcome),) = client.stream([("one", request)])
        assert isinstance(outcome, RequestFailed)
        raise outcome

    for call in (
        lambda: client.send(request),
        streamed,
        lambda: client.embed([encoded(0)], task=task, route="shapes/lora"),
        lambda: AdminClient(client).put_route("mixed", "shapes/lora", task=task),
    ):
        with pytest.raises(RequestFailed) as refused:
            call()
        assert (refused.value.code, refused.value.named_field) == (code, "task")


def test_feedback_by_index_counts_by_the_task_that_was_answered(client: Client) -> None:
    replies = [
        client.classify([encoded(1)], task="reordered", route="shapes/lora").results[0] for _ in range(2)
    ]
    truth = REORDERED.index(replies[0].top[0].class_name)
    right, wrong = client.feedback(
        [(replies[0].prediction_id, truth), (replies[1].prediction_id, (truth + 1) % 3)]
    ).results

    assert (right.correct, wrong.correct) == (True, False)


def test_a_named_route_answers_in_the_classes_of_its_own_task(own_world: World) -> None:
    own_world.put_route("mixed", "shapes/lora, reordered/lora", task="reordered")
    own_world.put_route("foreign", "shapes/lora", task="colours")  # as an earlier version took it
    catalog = Catalog(own_world.store, own_world.backbone.digest)

    plan = catalog.plan("reordered", parse_route("mixed"), extrapolate=False)
    assert (plan.named, plan.resolved.classes) == ("reordered/mixed", REORDERED)
    with pytest.raises(InvalidInput, match="task 'colours' has other classes than shapes/lora:2"):
        catalog.plan("colours", parse_route("foreign"), extrapolate=False)


def test_a_store_in_this_process_answers_and_measures_by_the_task(world: World, tmp_path: Path) -> None:
    images = np.stack([np.full((40, 36, 3), 80 * n, np.uint8) for n in range(3)])
    np.savez(tmp_path / "data.npz", images=images, labels=[0, 1, 2], classes=np.array(SHAPES))
    with corolla.Store(world.folder, device="cpu", precision="fp32", threads=1) as store:
        (shapes,) = store.classify([images[1]], task="shapes", route="shapes/lora")
        (reordered,) = store.classify([images[1]], task="reordered", route="shapes/lora")
        measured = [
            store.evaluate("shapes/lora", data=tmp_path / "data.npz", task=task)[0]
            for task in ("shapes", "reordered")
        ]
        for task, error in (("colours", InvalidInput), ("nosuch", NotFound)):
            with pytest.raises(error, match=task):
                store.classify([images[1]], task=task, route="shapes/lora")
            with pytest.raises(error, match=task):
                store.evaluate("shapes/lora", data=tmp_path / "data.npz", task=task)

    assert reordered.classes == REORDERED
    assert reordered.label == shapes.label
    assert measured[0].accuracy == measured[1].accuracy


def test_bulk_rows_are_in_the_order_of_the_task(world: World, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(encoded(1))
    sources = [Source(path=str(image), file=str(image))]
    settings = {"store": str(world.folder), "threads": 1, "device": "cpu", "precision": "fp32"}

    def run(task: str) -> Any:
        bulk = Bulk(sources=sources, task=task, route=parse_route("shapes/lora"))
        return predict(bulk, tmp_path / f"{task}.jsonl", settings)

    summary = run("reordered")
    assert (summary.classes, summary.route) == (REORDERED, "shapes/lora:2")
    with pytest.raises(InvalidInput, match="task 'colours' has other classes"):
        run("colours")
