"""corolla.v1.Classifier over a real channel: what is answered."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from petl_vit.preprocess import preprocess
from protos.corolla.v1 import classifier_pb2 as pb
from serving.client.blocking import Client
from serving.engine.priority import Priority
from tests.serving.rpc.requests import ask, typed, values
from tests.serving.world import (
    METHODS,
    PREPROCESS,
    REORDERED,
    SHAPES,
    WAIT_S,
    Running,
    World,
    encoded,
    pixels,
    until,
)


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        *((method, f"{method}:{2 if method == 'lora' else 1}") for method in METHODS),
        ("base", "base"),
        ("lora:1", "lora:1"),
        ("lora@prod", "lora:1"),
        ("0.6*full", "0.6*full:1"),
        ("0.5*lora + 0.25*ssf", "0.5*lora:2 + 0.25*ssf:1"),
        ("lora, 0.4*full, ssf:1", "lora:2, 0.4*full:1, ssf:1"),
        ("prob(2: lora, 1: ssf)", "prob(2: lora:2, ssf:1)"),
        ("vote(lora, ssf, bitfit)", "vote(lora:2, ssf:1, bitfit:1)"),
        ("best", "lora:2, ssf:1, 0.5*bitfit:1"),
    ],
)
def test_every_kind_of_route_is_answered_with_its_resolved_versions(
    client: Client, text: str, resolved: str
) -> None:
    response = ask(client, text, encoded(1), encoded(2), probabilities=True, members=True)

    assert response.route == resolved
    assert len(response.backbone_digest) == 64
    for result in response.results:
        assert sum(result.probabilities) == pytest.approx(1, abs=1e-6)
        best = max(score.probability for score in result.top)
        assert result.top[0].probability == pytest.approx(best)
        said = [member.top.class_index for member in result.members]
        assert result.agreement == pytest.approx(np.mean(np.array(said) == result.top[0].class_index))
        assert ", ".join(member.member for member in result.members) in resolved.replace("2: ", "")
        assert result.entropy >= 0
        assert result.mutual_information >= 0


@pytest.mark.parametrize(
    ("text", "route"),
    [
        ("lora", typed((None, [(None, "lora")]))),
        ("0.6*lora", typed((1, [(0.6, "lora")]))),
        ("0*lora, ssf", typed((None, [(0, "lora")]), (None, [(None, "ssf")]))),
        ("0.5*lora + 0.5*full", typed((None, [(0.5, "lora"), (0.5, "full")]))),
        (
            "prob(2: lora, ssf)",
            typed((2, [(None, "lora")]), (None, [(None, "ssf")]), combine=pb.COMBINE_PROB),
        ),
        (
            "vote(lora, ssf, full)",
            typed(*((None, [(None, name)]) for name in ("lora", "ssf", "full")), combine=pb.COMBINE_VOTE),
        ),
    ],
)
def test_the_typed_form_means_what_the_text_means(client: Client, text: str, route: pb.Route) -> None:
    ours, theirs = (ask(client, form, probabilities=True) for form in (text, route))

    assert ours.route == theirs.route
    np.testing.assert_allclose(values(ours), values(theirs), atol=1e-6)


def test_a_typed_adapter_has_a_version_an_alias_or_a_task(client: Client) -> None:
    refs = [
        pb.AdapterRef(name="lora", version=1),
        pb.AdapterRef(name="lora", alias="prod"),
        pb.AdapterRef(name="lora", task="reordered"),
    ]
    routes = [pb.Route(entries=[pb.Entry(model=pb.Model(terms=[pb.Term(adapter=ref)]))]) for ref in refs]
    found = [ask(client, route).adapters[0].name for route in routes]

    assert found == ["shapes/lora:1", "shapes/lora:1", "reordered/lora:1"]


def test_alpha_leads_from_the_frozen_model_to_the_adapter(client: Client) -> None:
    at = {text: values(ask(client, text, probabilities=True)) for text in ("base", "0*ssf", "1*ssf", "ssf")}

    np.testing.assert_allclose(at["0*ssf"], at["base"], atol=1e-5)
    np.testing.assert_allclose(at["1*ssf"], at["ssf"], atol=1e-6)
    assert np.abs(at["ssf"] - at["base"]).max() > 0.01


def test_every_adapter_that_answered_is_named_with_its_digest(client: Client, world: World) -> None:
    response = ask(client, "lora, 0.5*lora + 0.5*ssf, base")

    assert [(adapter.name, adapter.method) for adapter in response.adapters] == [
        ("shapes/lora:2", "lora"),
        ("shapes/ssf:1", "ssf"),
        ("shapes/base", "linear"),
    ]
    assert response.adapters[0].digest == world.store.adapters.manifest("shapes", "lora", 2).digest


def test_classes_in_another_order_are_matched_by_name(client: Client) -> None:
    alone = ask(client, "lora", task="reordered", members=True, probabilities=True).results[0]
    beside = ask(client, "prob(lora, reordered/lora)", members=True, probabilities=True).results[0]

    assert alone.top[0].class_name == REORDERED[alone.top[0].class_index]
    assert beside.members[1].top.class_name == alone.top[0].class_name
    assert beside.members[1].top.class_index == SHAPES.index(alone.top[0].class_name)
    lora = ask(client, "lora", probabilities=True).results[0].probabilities
    by_name = dict(zip(REORDERED, alone.probabilities, strict=True))
    expected = [(p + by_name[name]) / 2 for name, p in zip(SHAPES, lora, strict=True)]
    assert list(beside.probabilities) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_images_come_in_three_formats(client: Client, kind: str) -> None:
    result = ask(client, "lora", encoded(3, kind), probabilities=True).results[0]

    expected = ask(client, "lora", encoded(3, "PNG"), probabilities=True).results[0]
    tolerance = 1e-6 if kind == "PNG" else 0.3
    np.testing.assert_allclose(result.probabilities, expected.probabilities, atol=tolerance)


def test_tensors_of_both_kinds_are_the_same_images(client: Client) -> None:
    raw = np.stack([pixels(3), pixels(4)])
    ready = np.stack([preprocess(encoded(i), PREPROCESS).numpy() for i in (3, 4)])
    options: dict[str, Any] = {"route": "lora, ssf", "task": "shapes", "probabilities": True}
    images = client.classify([encoded(3), encoded(4)], **options)

    for tensor in (raw, ready):
        response = client.classify(tensor=tensor, **options)
        np.testing.assert_allclose(values(response), values(images), atol=1e-6)
        assert [result.id for result in response.results] == ["", ""]


def test_answers_keep_the_order_and_the_ids_of_the_request(client: Client) -> None:
    images = [encoded(i) for i in range(10)]
    together = client.classify(
        images, route="lora", task="shapes", probabilities=True, ids=[f"image {i}" for i in range(10)]
    )

    assert [result.id for result in together.results] == [f"image {i}" for i in range(10)]
    alone = np.concatenate([values(ask(client, "lora", image, probabilities=True)) for image in images])
    np.testing.assert_allclose(values(together), alone, atol=1e-5)
    assert len({result.prediction_id for result in together.results}) == 10


@pytest.mark.parametrize(("top_k", "shown"), [(0, 3), (1, 1), (2, 2), (4_000_000_000, 3)])
def test_top_k_says_how_many_classes_are_shown(client: Client, top_k: int, shown: int) -> None:
    top = ask(client, "lora", top_k=top_k).results[0].top

    assert len(top) == shown
    assert [score.probability for score in top] == sorted((s.probability for s in top), reverse=True)
    assert [SHAPES[score.class_index] for score in top] == [score.class_name for score in top]


def test_what_was_not_asked_for_is_not_sent(client: Client) -> None:
    result = ask(client, "lora, ssf").results[0]

    assert not result.probabilities
    assert not result.members
    assert not result.HasField("error")


@pytest.mark.numerics
def test_requests_of_all_routes_at_once_answer_as_each_alone(running: Running, client: Client) -> None:
    texts = [*METHODS, "0.3*lora", "0.7*lora", "lora + ssf", "prob(full, vpt-deep)", "best", "base"] * 2
    alone = {text: values(ask(client, text, probabilities=True)) for text in set(texts)}
    taken = running.value("corolla_queue_duration_seconds_count")
    release = running.hold_engine()  # so that they gather

    with ThreadPoolExecutor(len(texts) + 1) as pool:
        pool.submit(ask, client, "lora")
        until(lambda: running.value("corolla_queue_duration_seconds_count") > taken)
        asked = [pool.submit(ask, client, text, probabilities=True) for text in texts]
        until(lambda: running.value("corolla_queue_rows") == 2 * (len(METHODS) + 9))
        release.set()
        for text, future in zip(texts, asked, strict=True):
            np.testing.assert_allclose(values(future.result()), alone[text], atol=1e-5)


def test_timings_say_where_the_time_went(client: Client) -> None:
    timings = ask(client, "lora").timings

    assert timings.decode.nanos > 0
    assert timings.forward.nanos > 0


def test_priority_and_client_reach_the_queue(
    running: Running, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Priority, str]] = []
    submit = running.server.service.batcher.submit

    async def watched(works: Any, **options: Any) -> Any:
        seen.append((options["priority"], options["client"]))
        return await submit(works, **options)

    monkeypatch.setattr(running.server.service.batcher, "submit", watched)
    lora: dict[str, Any] = {"route": "lora", "task": "shapes"}
    client.classify([encoded(0)], **lora, priority="low", client="nightly")
    client.classify([encoded(0)], **lora, priority="high", client="ipv4:127.0.0.1:1")
    client.classify([encoded(0)], **lora)

    assert seen[:2] == [(Priority.LOW, "client:nightly"), (Priority.HIGH, "client:ipv4:127.0.0.1:1")]
    assert seen[2][0] is Priority.NORMAL
    assert seen[2][1].startswith("peer:"), (
        "who has no name is the connection, and no name can pretend to be one"
    )


def test_many_threads_share_one_client(client: Client) -> None:
    barrier = threading.Barrier(8)

    def ask_together(i: int) -> str:
        barrier.wait(WAIT_S)
        return str(ask(client, METHODS[i % len(METHODS)]).route)

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(ask_together, range(8)))) == 8
