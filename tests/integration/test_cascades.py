"""One named cascade over every way in: gRPC and its stream, OIP, commands, Python, bulk and TorchServe."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import corolla
from corolla.commands.classify import classify
from corolla.commands.routes import routes
from model_store.format.records import Cascade
from model_store.routes.text import parse_route
from petl_vit.cascade import Score, scores
from petl_vit.errors import InvalidInput, Unsupported
from protos.corolla.v1 import classifier_pb2 as pb
from serving.bulk.run import Bulk, predict
from serving.bulk.sources import listed
from serving.client.admin import AdminClient
from serving.client.blocking import Client
from serving.client.messages import request_of
from serving.torchserve.embedded import Embedded
from serving.torchserve.requests import request_of as torchserve_request
from tests.serving.oip.requests import images as oip_images
from tests.serving.rpc.requests import refused, typed
from tests.serving.triton_client import tritonclient as triton
from tests.serving.world import SHAPES, Running, World, encoded

SEEDS = range(6)
IMAGES = [encoded(seed) for seed in SEEDS]
TEXT = "cascade(lora, ssf, bitfit; loss<=0.01)"
RESOLVED = "cascade(lora:2, ssf:1, bitfit:1; loss<=0.01)"
ORDER = (1, 0, 2)
MEMBERS = ("lora:2", "ssf:1", "bitfit:1")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("cascaded") / "store")


@pytest.fixture(scope="module")
def store(world: World) -> Iterator[corolla.Store]:
    with corolla.Store(world.folder, device="cpu", precision="fp32", threads=1) as store:
        yield store


@pytest.fixture(scope="module")
def cascade(world: World, store: corolla.Store) -> Cascade:
    """The thresholds of `quick`: half the images ask `ssf` alone."""
    alone = store.classify(IMAGES, route="ssf", task="shapes")
    logits = np.log([[answer.probabilities] for answer in alone])
    threshold = float(np.median(scores(logits, Score.MARGIN, 1.0)))
    cascade = world.put_cascade("quick", TEXT, (threshold, 1e9), score=Score.MARGIN, order=ORDER)
    world.put_route("raw", TEXT)
    return cascade


@pytest.fixture(scope="module")
def server(world: World, cascade: Cascade) -> Iterator[Running]:
    with Running(world.settings(cascade_full_share=0.5)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def answered(client: Client) -> pb.ClassifyResponse:
    """What the server says: half the images by one member, half by all three."""
    response = client.classify(IMAGES, route="quick", task="shapes", probabilities=True, members=True)
    assert sorted(result.members_asked for result in response.results) == [1, 1, 1, 3, 3, 3]
    assert (response.route, response.route_note) == (RESOLVED, "")
    return response


def test_an_answer_says_who_was_asked_and_how_they_voted(
    client: Client, answered: pb.ClassifyResponse
) -> None:
    ensemble = client.classify(
        IMAGES, route="lora, ssf, bitfit", task="shapes", probabilities=True, members=True
    )
    for result, whole in zip(answered.results, ensemble.results, strict=True):
        assert [vote.member for vote in result.members] == list(MEMBERS)
        asked = [vote.HasField("top") for vote in result.members]
        if result.members_asked == 1:
            assert asked == [False, True, False]
            assert result.agreement == 1
            assert result.members[1].top.class_name == result.top[0].class_name
        else:
            assert asked == [True, True, True]
            np.testing.assert_allclose(result.probabilities, whole.probabilities, atol=1e-5)
            assert result.agreement == whole.agreement
        assert whole.members_asked == 3


def test_a_stream_and_a_label_take_cascades_too(client: Client, answered: pb.ClassifyResponse) -> None:
    request = request_of(IMAGES, route="quick", task="shapes", members=True)
    ((name, streamed),) = client.stream([("all", request)])
    assert name == "all"
    assert isinstance(streamed, pb.ClassifyResponse)
    for mine, other in zip(streamed.results, answered.results, strict=True):
        assert [vote.HasField("top") for vote in mine.members] == [v.HasField("top") for v in other.members]
    labels = [(result.prediction_id, result.top[0].class_name) for result in answered.results]
    assert all(result.correct for result in client.feedback(labels).results)


def test_a_typed_cascade_is_read_and_held_to_the_limits(client: Client) -> None:
    two = typed((None, [(None, "lora")]), (None, [(None, "ssf")]), combine=pb.COMBINE_CASCADE)
    refused(client, "INVALID_ARGUMENT", "loss", route=two)
    for loss in (1.0, -0.1, float("nan")):
        two.max_loss = loss
        refused(client, "INVALID_ARGUMENT", "loss", route=two)
    two.max_loss = 0.01
    said = refused(client, "INVALID_ARGUMENT", "route", route=two)
    assert "corolla routes calibrate" in str(said)
    refused(client, "INVALID_ARGUMENT", "route", route="raw")
    one = typed((None, [(None, "lora")]), combine=pb.COMBINE_CASCADE)
    one.max_loss = 0.01
    assert "nobody to ask next" in str(refused(client, "INVALID_ARGUMENT", "route", route=one))
    mean = typed((None, [(None, "lora")]))
    mean.max_loss = 0.01
    assert "only a cascade has a loss" in str(refused(client, "INVALID_ARGUMENT", "route", route=mean))


def test_the_open_inference_protocol_answers_by_its_name(
    server: Running, answered: pb.ClassifyResponse
) -> None:
    with triton.InferenceServerClient(server.address) as client:
        result = client.infer("shapes/quick", [oip_images(*SEEDS)])
    expected = [list(one.probabilities) for one in answered.results]
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected, atol=1e-5)
    assert list(result.as_numpy("members_asked")) == [one.members_asked for one in answered.results]


def test_the_administration_shows_the_thresholds_and_puts_a_cascade(
    client: Client, server: Running, cascade: Cascade
) -> None:
    admin = AdminClient(client)
    states = {state.route.name: state for state in admin.list_routes(task="shapes").routes}
    quick = states["quick"]
    assert (quick.resolved, quick.thresholds_void) == (RESOLVED, False)
    assert list(quick.route.cascade.order) == list(ORDER)
    assert [stage.HasField("threshold") for stage in quick.route.cascade.stages] == [True, True, False]
    assert quick.route.cascade.measured.cost == 1.5
    assert "were not learnt yet" in states["raw"].problem
    assert not states["raw"].route.HasField("cascade")
    put = admin.put_route("quick", TEXT, task="shapes")
    assert put.route.cascade == quick.route.cascade, "the same cascade keeps its thresholds"
    assert "thresholds: as learnt before" in put.notes[-1]

    listed_ = CliRunner().invoke(routes, ["list", "--server", server.address, "--json"])
    documents = {one["name"]: one for one in json.loads(listed_.stdout)}
    assert documents["quick"]["asks"] == "asks 1.5 of 3 members on average"
    assert Cascade.of(**documents["quick"]["cascade"]) == cascade
    assert documents["best"]["cascade"] is None


def test_commands_show_who_was_asked(world: World, server: Running, tmp_path: Path) -> None:
    for seed, image in zip(SEEDS, IMAGES, strict=True):
        (tmp_path / f"{seed}.png").write_bytes(image)
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    words = [*files, "--route", "quick", "--task", "shapes", "--members", "--server", server.address]
    shown = CliRunner().invoke(classify, words).stdout
    assert shown.count("1 of 3") == shown.count("3 of 3") == 3
    assert shown.count("not asked") == 3 * 2

    environment = {"COROLLA_STORE": str(world.folder), "COLUMNS": "200"}
    listing = CliRunner().invoke(routes, ["list", "--task", "shapes"], env=environment).stdout
    assert "asks 1.5 of 3 members on average" in listing
    show = CliRunner().invoke(routes, ["show", "quick", "--task", "shapes", "--json"], env=environment)
    document = json.loads(show.stdout)
    assert document["cascade"]["order"] == list(ORDER)
    assert document["meaning"][0].startswith("cascade of 3 models")
    lines = (
        CliRunner().invoke(routes, ["show", "quick", "--task", "shapes"], env=environment).stdout.splitlines()
    )
    assert [line.split(":")[0] for line in lines[-4:-1]] == ["asks ssf", "asks lora", "asks bitfit"]
    assert lines[-2].endswith("settled always, at temperature 1")
    assert lines[-1].endswith("accuracy loss 0.0000, 1.50 of 3 members asked")


def test_python_and_bulk_answer_as_the_server(
    world: World, store: corolla.Store, answered: pb.ClassifyResponse, tmp_path: Path
) -> None:
    found = store.classify(IMAGES, route="quick", task="shapes")
    for mine, other in zip(found, answered.results, strict=True):
        assert mine.probabilities == pytest.approx(np.array(other.probabilities), abs=1e-5)
        assert mine.members_asked == other.members_asked
        assert [vote is None for vote in mine.votes] == [not vote.HasField("top") for vote in other.members]
    with pytest.raises(InvalidInput, match="were not learnt yet"):
        store.classify(IMAGES, route="raw", task="shapes")

    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, image in zip(SEEDS, IMAGES, strict=True):
        (folder / f"{seed}.png").write_bytes(image)
    sources, _ = listed([folder], column="path")
    settings: dict[str, Any] = {
        "store": str(world.folder),
        "threads": 1,
        "device": "cpu",
        "precision": "fp32",
    }
    bulk = Bulk(sources=sources, task="shapes", route=parse_route("quick"), probabilities=True)
    predict(bulk, tmp_path / "out.jsonl", settings)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, other in zip(rows, answered.results, strict=True):
        assert list(row["probabilities"].values()) == pytest.approx(list(other.probabilities), abs=1e-5)
        assert row["members_asked"] == other.members_asked


def _texts() -> list[str]:
    return [base64.b64encode(image).decode() for image in IMAGES]


def test_torchserves_requests_take_cascades(world: World, answered: pb.ClassifyResponse) -> None:
    embedded = Embedded(world.settings())
    try:
        request = torchserve_request({"images": _texts(), "route": "quick", "task": "shapes"})
        (document,) = embedded.answer([(request.request, request.document)])
    finally:
        embedded.close()
    assert isinstance(document, dict)
    asked = [result["members_asked"] for result in document["results"]]
    assert asked == [result.members_asked for result in answered.results]


def test_an_evaluation_answers_as_the_server(
    store: corolla.Store, answered: pb.ClassifyResponse, tmp_path: Path
) -> None:
    """Every image is labelled with what the server said, but one: which it then gets wrong."""
    wrong = next(name for name in SHAPES if name != answered.results[0].top[0].class_name)
    for seed, (image, result) in enumerate(zip(IMAGES, answered.results, strict=True)):
        place = tmp_path / (result.top[0].class_name if seed else wrong)
        place.mkdir(exist_ok=True)
        (place / f"{seed}.png").write_bytes(image)
    (measured,) = store.evaluate("quick", data=tmp_path, task="shapes")
    assert (measured.route, measured.images) == ("quick", 6)
    assert measured.accuracy == pytest.approx(5 / 6)
    expected = [result.top[0].probability for result in answered.results]
    assert measured.confidence == pytest.approx(np.mean(expected), abs=1e-5)
    with pytest.raises(InvalidInput, match="a cascade by its text alone"):
        store.evaluate(TEXT, data=tmp_path, task="shapes")


def test_a_temperature_is_not_fitted_to_a_cascade(world: World, cascade: Cascade, tmp_path: Path) -> None:
    from corolla.fitting import Fitting, fit
    from training.progress import Silent

    with pytest.raises(Unsupported, match="a temperature for each of its stages"):
        fit(world.store, Fitting(task="shapes", name="quick", data=str(tmp_path)), Silent())
