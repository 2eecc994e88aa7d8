"""The real TorchServe serves an archive of `corolla package torchserve`, over its own gRPC and HTTP."""

import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
import psutil
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc
from PIL import Image

from corolla.command import run
from model_store.store import Store
from serving.client.labels import status_name
from serving.torchserve.packaging import java_problem
from tests.serving.world import CONFIG, SHAPES, Running, World, backbone_tensors, encoded

pytest.importorskip("ts", reason="the extra `torchserve` is not installed")
pytest.importorskip("model_archiver", reason="the extra `torchserve` is not installed")

ROOT = Path(__file__).parents[2]
START_S = 600.0
STOP_S = 120.0
CALL_S = 300.0
SERVICE = "org.pytorch.serve.grpc.inference"
ROUTES = (
    "lora",
    "lora, ssf, 0.5*bitfit",
    "0.3*lora + 0.5*ssf",
    "vote(2: lora, 1: ssf)",
    "0.6*lora@prod",
    "best",
)
BASE = {"route": b"lora", "task": b"shapes"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.torchserve,
    pytest.mark.skipif(java_problem() is not None, reason="no Java 17"),
]


class Predictions:
    """A stub of TorchServe's `Predictions`, compiled from the proto that we publish for it."""

    def __init__(self, port: int, folder: Path) -> None:
        described = folder / "inference.pb"
        proto = ROOT / "deploy" / "torchserve"
        assert protoc.main(["", f"-I{proto}", f"--descriptor_set_out={described}", "inference.proto"]) == 0
        pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(described.read_bytes()).file:
            pool.Add(file)
        asked, answered = (
            message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{SERVICE}.{name}"))
            for name in ("PredictionsRequest", "PredictionResponse")
        )
        self._request = asked
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._call = self._channel.unary_unary(
            f"/{SERVICE}.InferenceAPIsService/Predictions",
            request_serializer=asked.SerializeToString,
            response_deserializer=answered.FromString,
        )

    def __call__(self, metadata: Sequence[tuple[str, str]] = (), **fields: bytes) -> Any:
        request = self._request(model_name="corolla", input=fields)
        reply = self._call(request, timeout=CALL_S, metadata=metadata)
        return json.loads(reply.prediction)

    def close(self) -> None:
        self._channel.close()


class TorchServe:
    """TorchServe in processes of its own, on free ports of the loopback interface."""

    def __init__(self, folder: Path, *, key: Path | None = None, **changes: object) -> None:
        self.folder = folder
        self._own = {} if key is None else {"COROLLA_PREDICTION_KEY_FILE": str(key)}
        self.ports = {name: free_port() for name in ("inference", "management", "metrics")}
        self.ports |= {name: free_port() for name in ("grpc_inference", "grpc_management")}
        properties = folder / "config.properties"
        lines = [line for line in properties.read_text().splitlines() if "=" in line and line[0] != "#"]
        values = dict(line.split("=", 1) for line in lines)
        for name, port in self.ports.items():
            plain = name.startswith("grpc_")
            values[f"{name}_port" if plain else f"{name}_address"] = str(port) if plain else self.url(name)
        values |= {name: str(value) for name, value in changes.items()}
        properties.write_text("".join(f"{name}={value}\n" for name, value in values.items()))

    def url(self, name: str, path: str = "") -> str:
        return f"http://127.0.0.1:{self.ports[name]}{path}"

    def asking(self, name: str, path: str) -> urllib.request.Request:
        """A question to one of its ports."""
        return urllib.request.Request(self.url(name, path))

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs"]
        command += ["--ts-config", str(self.folder / "config.properties")]
        others = {name: value for name, value in os.environ.items() if not name.startswith("COROLLA_")}
        # Its launcher and its workers' sockets use the temporary folder as if no other TorchServe ran.
        own = {
            "TMPDIR": str(self.folder),
            "TEMP": str(self.folder),
            "LOG_LOCATION": str(self.folder / "logs"),
        }
        own |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "XDG_DATA_HOME": str(self.folder / "data")}
        own |= self._own
        with (self.folder / "torchserve.log").open("w") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=others | own, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        self.predictions = Predictions(self.ports["grpc_inference"], self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "predictions"):
            self.predictions.close()
        everything = self.processes()
        # Not its workers: it would start them again.
        for process in everything[:2]:
            with suppress(psutil.Error):
                process.terminate()
        _, alive = psutil.wait_procs(everything, timeout=STOP_S)
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        self._process.wait(STOP_S)
        assert not alive, "TorchServe left processes behind"

    def processes(self) -> list[psutil.Process]:
        """The launcher, Java, and the workers."""
        with suppress(psutil.Error):
            launcher = psutil.Process(self._process.pid)
            return [launcher, *launcher.children(recursive=True)]
        return []

    def workers(self) -> set[int]:
        return {process.pid for process in self.processes()[2:]}

    def log(self) -> str:
        return (self.folder / "torchserve.log").read_text()

    def _wait(self) -> None:
        """Until a worker is ready: TorchServe itself answers long before."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with (
                suppress(OSError),
                urllib.request.urlopen(self.asking("management", "/models/corolla")) as reply,
            ):
                (model,) = json.loads(reply.read())
                if [worker["status"] for worker in model["workers"]] == ["READY"]:
                    return
            time.sleep(0.2)
        raise AssertionError(f"TorchServe did not start:\n{self.log()[-3000:]}")

    def register(self, archive: str) -> tuple[int, str]:
        """What TorchServe says when it is told to load an archive of its folder."""
        path = f"/models?url={archive}&initial_workers=1&synchronous=true"
        return self.post(path, b"", "text/plain", to="management")

    def post(self, path: str, body: bytes, kind: str, *, to: str = "inference") -> tuple[int, str]:
        """The status and the body of a POST."""
        request = urllib.request.Request(self.url(to, path), body, {"Content-Type": kind}, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=CALL_S) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def scrape(self) -> dict[str, float]:
        """The samples by their text, `name{label="value",}`, without the host's name."""
        with urllib.request.urlopen(self.asking("metrics", "/metrics"), timeout=CALL_S) as reply:
            lines = reply.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if line and line[0] != "#")
        return {re.sub(r'Hostname="[^"]*",', "", name): float(value) for name, _, value in samples}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def package(store: Path, out: Path, *flags: str) -> None:
    own = ["--device", "cpu", "--precision", "fp32", "--threads", "1", "--domains", "studio,street"]
    assert run(["package", "torchserve", "--store", str(store), "--out", str(out), *own, *flags]) == 0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("torchserve") / "store")


@pytest.fixture(scope="module")
def serving(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    # Archives for the tests of what cannot be loaded lie beside the good one.
    folder = tmp_path_factory.mktemp("served")
    package(world.folder, folder)
    (folder / "torn.mar").write_bytes(b"PK torn")
    moved = tmp_path_factory.mktemp("moved") / "store"
    package(World.make(moved).folder, folder / "other", "--name", "other")
    shutil.move(folder / "other" / "other.mar", folder)
    shutil.rmtree(moved)
    Store.open(str(moved)).backbones.put("tiny", CONFIG, backbone_tensors(1), "random")
    key = Path(str(world.settings().prediction_key_file))
    with TorchServe(folder, key=key, enable_model_api="true") as serving:
        yield serving


@pytest.fixture(scope="module")
def ours(world: World) -> Iterator[Running]:
    """Our own server over the same store, in fp32 as well."""
    with Running(world.settings(device="cpu", precision="fp32")) as running:
        yield running


# Answers


@pytest.mark.parametrize("route", ROUTES)
def test_its_answers_are_those_of_our_own_server(serving: TorchServe, ours: Running, route: str) -> None:
    image = encoded(3, "JPEG")

    told = serving.predictions(
        image=image, route=route.encode(), task=b"shapes", domain=b"studio", top_k=b"3"
    )

    with ours.client() as client:
        reply = client.classify([image], route=route, task="shapes", top_k=3)
    (result,), (expected,) = told["results"], reply.results
    assert (told["route"], told["backbone_digest"]) == (reply.route, reply.backbone_digest)
    assert [(a["name"], a["digest"], a["method"]) for a in told["adapters"]] == [
        (a.name, a.digest, a.method) for a in reply.adapters
    ]
    assert [score["class_name"] for score in result["top"]] == [score.class_name for score in expected.top]
    assert {score["class_name"] for score in result["top"]} == set(SHAPES)
    for score, other in zip(result["top"], expected.top, strict=True):
        assert score["probability"] == pytest.approx(other.probability, rel=1e-5)
    for name in ("agreement", "entropy", "mutual_information"):
        assert result[name] == pytest.approx(getattr(expected, name), rel=1e-4, abs=1e-6)
    assert told["timings"]["forward_s"] > 0


def test_several_images_come_as_base64_and_a_bad_one_harms_no_other(serving: TorchServe) -> None:
    images = [encoded(1), b"no image", encoded(2)]
    listed = json.dumps([base64.b64encode(image).decode() for image in images]).encode()

    first, bad, last = serving.predictions(images=listed, **BASE)["results"]

    assert first["top"] != last["top"]
    assert bad["error"]["code"] == "INVALID_ARGUMENT"
    assert bad["error"]["field"] == "images[1]"


def test_http_takes_a_form_and_a_json_object(serving: TorchServe) -> None:
    image = encoded(4)
    expected = serving.predictions(image=image, **BASE)["results"][0]["top"]
    document = {"image": base64.b64encode(image).decode(), "route": "lora", "task": "shapes", "top_k": 3}

    status, parts = serving.post("/predictions/corolla", *form(image=image, **BASE))
    answer, typed = serving.post("/predictions/corolla", json.dumps(document).encode(), "application/json")

    assert (status, answer) == (200, 200), (parts, typed)
    assert json.loads(parts)["results"][0]["top"] == json.loads(typed)["results"][0]["top"] == expected


def test_a_picture_of_ten_megabytes_is_taken(serving: TorchServe) -> None:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (1900, 1900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, "PNG")
    assert len(out.getvalue()) > 10_000_000

    assert serving.predictions(image=out.getvalue(), **BASE)["results"][0]["top"]
    assert serving.post("/predictions/corolla", *form(image=out.getvalue(), **BASE))[0] == 200


def test_a_true_label_for_its_prediction_goes_to_our_own_server(serving: TorchServe, ours: Running) -> None:
    (result,) = serving.predictions(image=encoded(5), **BASE)["results"]

    with ours.client() as client:
        (told,) = client.feedback([(result["prediction_id"], result["top"][0]["class_name"])]).results

    assert (status_name(told), told.correct) == ("matched", True)


def form(**parts: bytes) -> tuple[bytes, str]:
    """A form as `curl -F` sends it, and its content type; the image is a file."""
    body = b""
    for name, value in parts.items():
        file = '; filename="a.png"\r\nContent-Type: image/png' if name == "image" else ""
        body += f'--edge\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        body += value + b"\r\n"
    return body + b"--edge--\r\n", "multipart/form-data; boundary=edge"


def test_requests_at_once_share_a_batch_and_keep_their_own_answers(serving: TorchServe) -> None:
    questions = [(encoded(seed), route) for seed in range(8) for route in ("lora", "ssf", "lora, ssf")]

    def ask(question: tuple[bytes, str]) -> Any:
        image, route = question
        return serving.predictions(image=image, route=route.encode(), task=b"shapes")["results"][0]

    alone = list(map(ask, questions))
    before = serving.scrape()
    with ThreadPoolExecutor(len(questions)) as pool:
        together = list(pool.map(ask, questions))

    for one, other in zip(alone, together, strict=True):
        assert [s["class_name"] for s in one["top"]] == [s["class_name"] for s in other["top"]]
        assert [s["probability"] for s in one["top"]] == pytest.approx(
            [s["probability"] for s in other["top"]], rel=1e-4
        )
    rows = 8 * 4
    until(lambda: gained(serving, before, "corolla_batch_rows_sum{}") == rows)
    assert gained(serving, before, "corolla_batch_rows_count{}") < len(questions) / 2


# Metrics


def test_its_metrics_endpoint_carries_confidence_and_agreement(serving: TorchServe) -> None:
    labels = '{route="shapes/best",domain="street",}'
    names = ("corolla_prediction_confidence_ratio_sum", "corolla_ensemble_agreement_ratio_sum")
    before = serving.scrape()
    asked = {"route": b"best", "task": b"shapes", "domain": b"street"}

    results = [serving.predictions(image=encoded(seed), **asked)["results"][0] for seed in range(5)]

    sums = (sum(r["top"][0]["probability"] for r in results), sum(r["agreement"] for r in results))
    until(lambda: gained(serving, before, f"corolla_predictions_total{labels}") == 5)
    assert [gained(serving, before, name + labels) for name in names] == pytest.approx(sums, rel=1e-5)
    assert gained(serving, before, f"corolla_ensemble_agreement_ratio_count{labels}") == 5
    pair = 'corolla_ensemble_pair_comparisons_total{route="shapes/best",domain="street",pair="lora~ssf",}'
    assert gained(serving, before, pair) == 5


def test_a_named_route_is_in_the_metrics_before_its_first_request(serving: TorchServe) -> None:
    assert 'corolla_predictions_total{route="shapes/best",domain="unset",}' in serving.scrape()


def gained(serving: TorchServe, before: Mapping[str, float], sample: str) -> float:
    return serving.scrape().get(sample, 0) - before.get(sample, 0)


def until(true: Callable[[], bool]) -> None:
    """TorchServe reads its worker's lines in its own time."""
    end = time.monotonic() + CALL_S
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


# Bad input


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"route": b"nowhere"}, grpc.StatusCode.NOT_FOUND, "adapter"),
        ({"route": b"lora +"}, grpc.StatusCode.INVALID_ARGUMENT, "route"),
        ({"route": b""}, grpc.StatusCode.INVALID_ARGUMENT, "route"),
        ({"image": b"no image"}, grpc.StatusCode.INVALID_ARGUMENT, "images[0]"),
        ({"image": encoded(0)[:60]}, grpc.StatusCode.INVALID_ARGUMENT, "images[0]"),
        ({"image": None}, grpc.StatusCode.INVALID_ARGUMENT, "image"),
        ({"images": b"[1]", "image": None}, grpc.StatusCode.INVALID_ARGUMENT, "images[0]"),
        ({"top_k": b"many"}, grpc.StatusCode.INVALID_ARGUMENT, "top_k"),
        ({"rout": b"lora"}, grpc.StatusCode.INVALID_ARGUMENT, "rout"),
        ({"task": b"\xff"}, grpc.StatusCode.INVALID_ARGUMENT, "task"),
        ({"task": b"flowers"}, grpc.StatusCode.NOT_FOUND, "task"),
    ],
)
def test_a_bad_request_gets_its_status_and_its_field_and_the_worker_lives(
    serving: TorchServe, fields: Mapping[str, bytes | None], code: grpc.StatusCode, field: str
) -> None:
    workers = serving.workers()
    asked = {"image": encoded(0), **BASE, **fields}

    with pytest.raises(grpc.RpcError) as raised:
        serving.predictions(**{name: value for name, value in asked.items() if value is not None})

    assert raised.value.code() is code
    said = raised.value.details()
    error = json.loads(said[said.index("{") : said.rindex("}") + 1])["error"]
    assert (error["code"], error["field"]) == (code.name, field)
    assert serving.predictions(image=encoded(0), **BASE)["results"][0]["top"]
    assert serving.workers() == workers


def test_a_bad_request_among_good_ones_fails_alone(serving: TorchServe) -> None:
    def ask(number: int) -> Any:
        route = b"nowhere" if number % 2 else b"lora"
        try:
            return serving.predictions(image=encoded(0), route=route, task=b"shapes")
        except grpc.RpcError as error:
            return {"error": {"code": error.code().name}}

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))

    assert all("results" in answer for answer in answers[::2])
    assert {answer["error"]["code"] for answer in answers[1::2]} == {"NOT_FOUND"}


def test_http_gives_a_bad_request_its_status(serving: TorchServe) -> None:
    status, said = serving.post(
        "/predictions/corolla", *form(image=encoded(0), route=b"nowhere", task=b"shapes")
    )
    assert status == 404
    assert "nowhere" in said


def test_an_archive_for_another_backbone_is_refused_and_the_server_lives(serving: TorchServe) -> None:
    status, said = serving.register("other.mar")

    assert status >= 400, said
    assert "the archive was made for backbone tiny" in serving.log()
    assert serving.predictions(image=encoded(0), **BASE)["results"]


def test_an_archive_that_cannot_be_read_is_refused_and_the_server_lives(serving: TorchServe) -> None:
    status, said = serving.register("torn.mar")

    assert status == 400
    assert json.loads(said)["type"] == "InvalidModelException"
    assert serving.predictions(image=encoded(0), **BASE)["results"]


def test_a_folder_that_has_moved_stops_the_start(world: World, tmp_path: Path) -> None:
    package(world.folder, tmp_path / "served")

    with pytest.raises(AssertionError, match="directory not found: /nowhere"), ExitStack() as stack:
        stack.enter_context(TorchServe(tmp_path / "served", model_store="/nowhere"))
