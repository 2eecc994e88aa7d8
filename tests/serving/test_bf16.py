"""A server and a bulk run in bf16: classes, features, streams, OIP and files, within the bound of fp32.

What they are compared with is computed from the store, a row at a time; it works, emulated, on a CPU without
bf16 too.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model_store.resolution.loading import Loader
from model_store.routes.text import parse_route
from petl_vit.batch import Batch, Features, Row
from petl_vit.precision import Precision
from petl_vit.preprocess import preprocess
from protos.corolla.v1 import classifier_pb2 as pb
from serving.bulk.run import Bulk, predict
from serving.bulk.sources import listed
from serving.client.blocking import Client
from serving.client.messages import request_of
from tests.serving.triton_client import tritonclient as triton
from tests.serving.world import METHODS, PREPROCESS, SHAPES, SIZE, WAIT_S, Running, World, encoded

TASK = "shapes"
IMAGES = 6
ROUTES = (*METHODS, "0.3*ssf", "0.5*full", "0.5*lora + 0.5*ssf", "base")
LARGEST = 6e-2
"""Of a logit or feature, relative to the largest; more than on trained weights, as these are large noise."""
MEDIAN = 1e-2
"""Of the largest changes of all routes: 6e-3 measured, more with a bf16 stream."""
Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def running(world: World) -> Iterator[Running]:
    with Running(world.settings(precision="bf16", device="cpu")) as running:
        yield running


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[Client]:
    with running.client() as client:
        yield client


class Reference:
    """What every route answers in a precision, each image alone.

    Attributes:
        logits: By route, [IMAGES, C], of mean 0: what probabilities tell.
        features: By route, [IMAGES, D].
    """

    def __init__(self, world: World, precision: Precision) -> None:
        loader = Loader(world.store, world.backbone, precision=precision)
        self._batch = Batch(loader.vit(SIZE))
        self._images = [preprocess(encoded(i), PREPROCESS)[None] for i in range(IMAGES)]
        self.logits, self.features = dict[str, Array](), dict[str, Array]()
        for text in ROUTES:
            route = world.resolve(text)
            (model,) = loader.models(route)
            self.logits[text] = centred(self._answers(Row(image=0, model=model)))
            self.features[text] = self._answers(Row(image=0, model=Features(model.terms)))

    def _answers(self, row: Row) -> Array:
        found = [self._batch.logits(image, [row])[0] for image in self._images]
        return np.asarray(torch.stack(found).double().numpy())


@pytest.fixture(scope="module")
def exact(world: World) -> Reference:
    return Reference(world, Precision.FP32)


@pytest.fixture(scope="module")
def alone(world: World) -> Reference:
    return Reference(world, Precision.BF16)


def centred(z: Array) -> Array:
    return np.asarray(z - z.mean(axis=-1, keepdims=True))


def relative(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def nearest(found: Array, answers: Mapping[str, Array]) -> str:
    """The route whose answers these are; the rows beside one may move a rounding to bf16, but not so far."""
    return min(answers, key=lambda route: float(np.abs(found - answers[route]).mean()))


def check(probabilities: Any, route: str, exact: Reference, alone: Reference) -> int:
    """Holds a route's answers [IMAGES, C] to both references.

    Returns:
        How many rows have a best class that the bound leaves no doubt of.
    """
    found, expected = centred(np.log(np.asarray(probabilities, np.float64))), exact.logits[route]
    assert relative(found, expected) <= LARGEST, route
    assert relative(found, alone.logits[route]) <= LARGEST, route
    assert nearest(found, alone.logits) == route
    best = np.sort(expected, axis=1)
    sure = best[:, -1] - best[:, -2] > 2 * LARGEST * np.abs(expected).max()
    assert (found.argmax(1) == expected.argmax(1))[sure].all(), route
    return int(sure.sum())


def test_routes_are_further_from_each_other_than_from_themselves_in_bf16(
    exact: Reference, alone: Reference
) -> None:
    """So that an answer of another adapter would be noticed, by a wide margin."""
    for route in ROUTES:
        own = np.abs(alone.logits[route] - exact.logits[route]).mean()
        others = [np.abs(alone.logits[o] - exact.logits[route]).mean() for o in ROUTES if o != route]
        assert min(others) > 5 * own, route


def test_the_references_differ_as_bf16_does(exact: Reference, alone: Reference) -> None:
    changes = [relative(alone.logits[route], exact.logits[route]) for route in ROUTES]
    assert 1e-4 < np.median(changes) <= MEDIAN


def test_classes_are_those_of_fp32(client: Client, exact: Reference, alone: Reference) -> None:
    sure = 0
    for route in ROUTES:
        reply = client.classify(
            [encoded(i) for i in range(IMAGES)], route=route, task=TASK, probabilities=True
        )
        sure += check([list(result.probabilities) for result in reply.results], route, exact, alone)
    assert sure > len(ROUTES) * IMAGES / 2  # the bound does not excuse everything


def test_features_are_those_of_fp32(client: Client, exact: Reference, alone: Reference) -> None:
    for route in ROUTES:
        reply = client.embed([encoded(i) for i in range(IMAGES)], route=route, task=TASK)
        found = np.array([list(result.values) for result in reply.results], np.float64)
        assert relative(found, exact.features[route]) <= LARGEST, route
        assert relative(found, alone.features[route]) <= LARGEST, route
        same = alone.features[nearest(found, alone.features)]  # a head alone has the features of the base
        assert np.array_equal(same, alone.features[route]), route


def test_streamed_requests_of_all_routes_are_answered_as_alone(
    client: Client, exact: Reference, alone: Reference
) -> None:
    """All of them are under way at once, so rows of many routes share forwards."""
    requests = {
        f"{route} {i}": request_of([encoded(i)], route=route, task=TASK, probabilities=True)
        for i in range(IMAGES)
        for route in ROUTES
    }
    found = dict[str, list[float]]()
    for key, reply in client.stream(requests.items(), timeout_s=WAIT_S):
        assert isinstance(reply, pb.ClassifyResponse), reply
        found[key] = list(reply.results[0].probabilities)
    for route in ROUTES:
        check([found[f"{route} {i}"] for i in range(IMAGES)], route, exact, alone)


def test_oip_answers_as_fp32_does(running: Running, exact: Reference, alone: Reference) -> None:
    images = triton.InferInput("images", [IMAGES], "BYTES")
    images.set_data_from_numpy(np.array([encoded(i) for i in range(IMAGES)], object))
    with triton.InferenceServerClient(running.address) as client:
        for method in METHODS:
            reply = client.infer(f"{TASK}/{method}", [images])
            check(reply.as_numpy("probabilities"), method, exact, alone)


def test_a_bulk_run_answers_as_fp32_does(
    world: World, tmp_path: Path, exact: Reference, alone: Reference
) -> None:
    for i in range(IMAGES):
        (tmp_path / f"{i}.png").write_bytes(encoded(i))
    settings = {"store": str(world.folder), "precision": "bf16", "device": "cpu", "threads": 1}
    for route in ("lora", "0.5*full", "vpt-deep", "0.5*lora + 0.5*ssf"):
        bulk = Bulk(
            sources=listed([tmp_path], column="path").images,
            task=TASK,
            route=parse_route(route),
            probabilities=True,
        )
        out = tmp_path / "out.jsonl"
        assert predict(bulk, out, settings).precision == Precision.BF16
        rows = [json.loads(line)["probabilities"] for line in out.read_text().splitlines()]
        out.unlink()
        check([[row[name] for name in SHAPES] for row in rows], route, exact, alone)
