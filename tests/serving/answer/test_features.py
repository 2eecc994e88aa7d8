"""Embed over a real channel: what is embedded under what, and what is said to bad requests."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model_store.resolution.loading import Loader
from petl_vit.batch import Batch, Features, Model, Row
from petl_vit.executors.sliced import Sliced
from petl_vit.preprocess import preprocess
from petl_vit.vit import FrozenViT
from protos.corolla.v1 import classifier_pb2 as pb
from protos.corolla.v1.classifier_pb2_grpc import ClassifierStub
from serving.client.asynchronous import AsyncClient
from serving.client.blocking import Client
from serving.client.messages import RequestFailed, embed_request_of
from tests.serving.world import (
    CONFIG,
    METHODS,
    PREPROCESS,
    SIZE,
    WAIT_S,
    Running,
    World,
    backbone_tensors,
    encoded,
    pixels,
)

pytestmark = pytest.mark.numerics

WIDTH = 48


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[Client]:
    with running.client() as client:
        yield client


def embedded(client: Client, route: Any = "", *images: bytes, **options: Any) -> NDArray[np.float32]:
    """[n, D]"""
    response = client.embed(list(images or (encoded(0),)), route=route, task="shapes", **options)
    return values(response)


def values(response: pb.EmbedResponse) -> NDArray[np.float32]:
    return np.array([list(result.values) for result in response.results], np.float32)


def model_of(world: World, text: str) -> Model:
    loader, route = Loader(world.store, world.backbone), world.resolve(text)
    (model,) = loader.models(route)
    return model


def expected(world: World, text: str, *images: bytes) -> NDArray[np.float32]:
    """[n, D] of each image alone."""
    vit = Loader(world.store, world.backbone).vit(SIZE)
    row = Row(image=0, model=Features(model_of(world, text).terms))
    pictures = [preprocess(image, PREPROCESS)[None] for image in images]
    return np.stack([Batch(vit).logits(picture, [row])[0].numpy() for picture in pictures])


# What is embedded


def test_features_are_those_that_the_frozen_backbone_pools(client: Client) -> None:
    vit = FrozenViT(CONFIG, backbone_tensors(0), image_size=SIZE)
    images = torch.stack([preprocess(encoded(i), PREPROCESS) for i in range(3)])
    with torch.inference_mode():
        pooled = vit.forward(images, Sliced(vit, [])).numpy()

    found = embedded(client, "", *(encoded(i) for i in range(3)))
    assert found.shape == (3, WIDTH)
    np.testing.assert_allclose(found, pooled, atol=1e-4)
    assert np.abs(found[0] - found[1]).max() > 0.01


@pytest.mark.parametrize("route", [*METHODS, "0.5*lora", "0.5*lora + 0.5*ssf", "lora@prod", "0.5*full"])
def test_features_may_be_under_an_adapter(client: Client, world: World, route: str) -> None:
    found = embedded(client, route, encoded(1), encoded(2))

    np.testing.assert_allclose(found, expected(world, route, encoded(1), encoded(2)), atol=1e-4)
    classes = client.classify([encoded(1), encoded(2)], route=route, task="shapes", probabilities=True)
    scores = model_of(world, route).head.logits(torch.from_numpy(found)).softmax(-1)
    np.testing.assert_allclose(
        scores, [list(result.probabilities) for result in classes.results], atol=1e-4, err_msg="their classes"
    )


def test_the_answer_says_under_what(client: Client, world: World) -> None:
    frozen = client.embed([encoded(0)], task="shapes")
    under = client.embed([encoded(0)], route="0.5*lora", task="shapes", ids=["a"])

    assert (frozen.route, [adapter.name for adapter in frozen.adapters]) == ("base", ["shapes/base"])
    assert under.route == "0.5*lora:2"
    assert under.adapters[0].digest == world.store.adapters.manifest("shapes", "lora", 2).digest
    assert under.backbone_digest == world.backbone.digest
    assert under.results[0].id == "a"
    assert under.timings.forward.ToMicroseconds() > 0


def test_vectors_have_length_1_when_that_is_asked_for(client: Client) -> None:
    plain, unit = embedded(client), embedded(client, normalise=True)

    assert np.linalg.norm(unit) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(unit * np.linalg.norm(plain), plain, rtol=1e-4)


def test_a_tensor_is_embedded_as_its_images_are(client: Client) -> None:
    preprocessed = preprocess(encoded(3), PREPROCESS)[None].numpy()
    from_bytes = embedded(client, "lora", encoded(3))
    from_pixels = values(client.embed(route="lora", task="shapes", tensor=pixels(3)[None]))
    from_floats = values(client.embed(route="lora", task="shapes", tensor=preprocessed))

    np.testing.assert_allclose(from_pixels, from_bytes, atol=1e-4)
    np.testing.assert_allclose(from_floats, from_bytes, atol=1e-4)


def test_a_typed_route_and_a_named_route_of_one_model_are_taken(own_world: World) -> None:
    own_world.put_route("half", "0.5*lora")
    lora = pb.Term(alpha=0.5, adapter=pb.AdapterRef(name="lora"))
    typed = pb.Route(entries=[pb.Entry(model=pb.Model(terms=[lora]))])

    with Running(own_world.settings()) as running, running.client() as client:
        np.testing.assert_allclose(embedded(client, typed), embedded(client, "half"), atol=1e-5)


def test_features_and_classes_share_forwards(world: World) -> None:
    """Rows of both wait for a held engine, and then leave it in one batch."""
    routes = ("base", "lora", "full", "vpt-shallow")
    with Running(world.settings()) as running, running.client() as client:
        alone = {route: embedded(client, route, encoded(1)) for route in routes}
        classes = {
            route: client.classify([encoded(1)], route=route, task="shapes", probabilities=True)
            for route in routes
        }
        found: dict[Any, Any] = {}

        def embed(route: str) -> None:
            found["embed", route] = embedded(client, route, encoded(1))

        def classify(route: str) -> None:
            found["classify", route] = client.classify(
                [encoded(1)], route=route, task="shapes", probabilities=True
            )

        release = running.hold_engine()
        threads = [threading.Thread(target=f, args=[r]) for r in routes for f in (embed, classify)]
        for thread in threads:
            thread.start()
        release.set()
        for thread in threads:
            thread.join(WAIT_S)

    for route in routes:
        np.testing.assert_allclose(found["embed", route], alone[route], atol=1e-4)
        np.testing.assert_allclose(
            found["classify", route].results[0].probabilities,
            classes[route].results[0].probabilities,
            atol=1e-5,
        )


async def test_the_asynchronous_client_embeds_too(running: Running) -> None:
    async with AsyncClient(running.address) as client:
        response = await client.embed([encoded(0)], task="shapes", normalise=True)
        assert values(response).shape == (1, WIDTH)
        with pytest.raises(RequestFailed):
            await client.embed([], task="shapes")


def test_calls_and_images_are_counted(running: Running, client: Client) -> None:
    def counts() -> tuple[float, ...]:
        return (
            running.value("corolla_requests_total", method="Embed", code="OK"),
            running.value("corolla_images_total", status="ok"),
            running.value("corolla_images_total", status="invalid"),
        )

    before = counts()
    client.embed([encoded(0), b"no image"], task="shapes")
    assert np.subtract(counts(), before).tolist() == [1, 1, 1]


# What is not


def test_a_bad_image_fails_alone(client: Client) -> None:
    response = client.embed([encoded(0), b"no image", encoded(1)], task="shapes", ids=["a", "b", "c"])

    good, bad, last = response.results
    assert bad.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "images[1]" in bad.error.message
    assert [len(one.values) for one in (good, bad, last)] == [WIDTH, 0, WIDTH]


def test_features_that_are_not_finite_fail_their_image(own_world: World) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            tensor.fill_(1e30)

    own_world.publish("shapes", "ssf", seed=1, name="huge", change=spoil)
    with Running(own_world.settings()) as running, running.client() as client:
        (result,) = client.embed([encoded(0)], route="huge", task="shapes").results
    assert "not finite" in result.error.message
    assert not result.values


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"route": "lora, ssf"}, "INVALID_ARGUMENT", "route"),
        ({"route": "best"}, "INVALID_ARGUMENT", "route"),
        ({"route": "lora,"}, "INVALID_ARGUMENT", "route"),
        ({"route": pb.Route()}, "INVALID_ARGUMENT", "route"),
        ({"route": "lorra"}, "NOT_FOUND", "adapter"),
        ({"route": "lora:9"}, "NOT_FOUND", "version"),
        ({"route": "2*lora"}, "INVALID_ARGUMENT", "alpha"),
        ({"task": ""}, "INVALID_ARGUMENT", "task"),
        ({"task": "shape"}, "NOT_FOUND", "task"),
        ({"images": []}, "INVALID_ARGUMENT", "images"),
        ({"images": [b""] * 65}, "INVALID_ARGUMENT", "images"),
        ({"tensor": np.zeros((1, 4, 4, 3), np.uint8)}, "INVALID_ARGUMENT", "tensor"),
        ({"images": [], "tensor": np.zeros((1, 3, 4, 4), np.float32)}, "INVALID_ARGUMENT", "tensor.shape"),
        ({"client": "x" * 200}, "INVALID_ARGUMENT", "client"),
    ],
)
def test_a_bad_request_is_refused_with_its_field(
    client: Client, changes: dict[str, Any], code: str, field: str
) -> None:
    chosen: dict[str, Any] = {"images": [encoded(0)], "task": "shapes"} | changes
    with pytest.raises(RequestFailed) as caught:
        client.call(ClassifierStub(client.channel).Embed, embed_request_of(**chosen))
    assert (caught.value.code, caught.value.named_field) == (code, field), str(caught.value)
