"""The whole path, small and real: import -> train -> register -> route -> serve -> classify -> count.

Every step is the command that people type, the first training and serving each in a process of its own; the
answers come over a real channel, and what Prometheus would scrape must be an exact recount of them.
"""

import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from sklearn.datasets import load_digits

from corolla.command import run
from protos.corolla.v1 import classifier_pb2 as pb
from serving.client.blocking import Client

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LIMIT_S = 600
METHODS = ("lora", "ssf", "bitfit")
NAMED = {"trio": "lora, ssf, bitfit", "poll": "vote(2: lora, ssf, 0.5*bitfit)", "solo": "0.7*lora"}
SUMS = ("base", "0.3*lora", "0.5*lora + 0.5*ssf")
ENSEMBLES = ("2: lora, 1: 0.5*ssf", "prob(lora, ssf)", "vote(lora, ssf, bitfit)")
ROUTES = (*METHODS, *SUMS, *ENSEMBLES, *NAMED)
DOMAINS = ("photo", "", "elsewhere")
LABEL_OF = {"photo": "photo", "": "unset", "elsewhere": "other"}


class Corolla:
    """The command line over a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        surroundings = {
            "COROLLA_STORE": str(self.store),
            "XDG_DATA_HOME": str(folder / "data"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
            "PYTHONPATH": str(ROOT),
        }
        others = {name: value for name, value in os.environ.items() if not name.startswith("COROLLA_")}
        self.environment = others | surroundings

    def here(self, *arguments: str) -> None:
        """In this process, which has torch loaded already."""
        assert run([*arguments, "--store", str(self.store)]) == 0

    def alone(self, *arguments: str) -> str:
        """In a process of its own."""
        done = subprocess.run(self.command(*arguments), **self.options, timeout=LIMIT_S, check=False)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return str(done.stdout)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "corolla", *arguments]

    @property
    def options(self) -> dict[str, Any]:
        return {
            "env": self.environment,
            "cwd": self.store.parent,
            "stderr": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "text": True,
        }


@pytest.fixture(scope="module")
def corolla(tmp_path_factory: pytest.TempPathFactory) -> Corolla:
    """A store with a backbone, three trained adapters and three named routes."""
    command = Corolla(tmp_path_factory.mktemp("main_path"))
    size = ["--image-size", "32", "--option", "depth=2", "--option", "embed_dim=48"]
    command.here("backbones", "import", "random:vit_tiny_patch16_224", *size)
    settings = ["--data", "digits", "--task", "digits", "--epochs", "1", "--limit", "60", "--device", "cpu"]
    settings += ["--image-size", "32", "--runs", str(command.store.parent / "runs")]
    first, *others = METHODS
    trained = json.loads(command.alone("train", first, *settings, "--json"))
    assert (trained["name"], trained["version"], trained["method"]) == (first, 1, first)
    for method in others:
        command.here("train", method, *settings, "--measure-precision", "fp32")
    for name, route in NAMED.items():
        command.here("routes", "put", name, route, "--task", "digits")
    return command


@dataclass
class Serving:
    """A server in a process of its own."""

    process: "subprocess.Popen[str]"
    address: str
    metrics: str

    def scrape(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=LIMIT_S) as reply:
            families = text_string_to_metric_families(reply.read().decode())
            return {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in families
                for sample in family.samples
            }


@pytest.fixture(scope="module")
def serving(corolla: Corolla) -> Iterator[Serving]:
    flags = ["--port", "0", "--metrics-port", "0", "--domains", "photo,sketch"]
    command = corolla.command("serve", "--device", "cpu", "--precision", "fp32", *flags)
    process = subprocess.Popen(command, **corolla.options)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"gRPC (\S+), metrics (\S+)$", line.strip())
    if found is None:
        process.kill()
        raise AssertionError(f"{line!r} {process.communicate()[1]}")
    yield Serving(process=process, address=found[1], metrics=found[2])
    if process.poll() is None:
        process.kill()
    process.communicate()


def digits(count: int) -> list[tuple[bytes, str]]:
    """Real handwritten digits as PNG files, with their classes."""
    found = load_digits()
    encoded = []
    for image, target in list(zip(found.images, found.target, strict=True))[-count:]:
        out = io.BytesIO()
        Image.fromarray((image * 255 / 16).astype(np.uint8)).resize((32, 32)).save(out, "PNG")
        encoded.append((out.getvalue(), str(target)))
    return encoded


@dataclass
class Recount:
    """What the metrics must say, from the answers alone."""

    numbers: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(
        default_factory=lambda: defaultdict(float)
    )

    def add(self, name: str, amount: float = 1, /, **labels: str) -> None:
        self.numbers[name, frozenset(labels.items())] += amount

    def answer(self, route: str, domain: str, result: pb.ImageResult) -> None:
        named = route in NAMED
        base = {"route": f"digits/{route}" if named else "adhoc", "domain": LABEL_OF[domain]}
        predicted = result.top[0].class_index
        votes = [member.top.class_index for member in result.members]
        self.add("corolla_images_total", status="ok")
        self.add("corolla_predictions_total", 1, **base)
        if named:
            by_class = {"route": base["route"], "class": result.top[0].class_name}
            self.add("corolla_class_predictions_total", 1, **by_class)
        self.add("corolla_prediction_confidence_ratio_count", 1, **base)
        self.add("corolla_prediction_confidence_ratio_sum", result.top[0].probability, **base)
        self.add("corolla_prediction_entropy_nats_sum", result.entropy, **base)
        if len(votes) > 1:
            self.add("corolla_ensemble_predictions_total", 1, **base, consensus=shape(votes))
            self.add("corolla_ensemble_agreement_ratio_sum", result.agreement, **base)
        members = labels_of(route) if named else []
        for member, vote in zip(members, votes, strict=named):
            self.add("corolla_member_predictions_total", 1, **base, member=member)
            self.add("corolla_member_vote_agreements_total", int(vote == predicted), **base, member=member)
        for (one, ours), (two, theirs) in combinations(zip(members, votes, strict=False), 2):
            pair = ":".join(sorted((one, two)))
            self.add("corolla_ensemble_pair_comparisons_total", 1, **base, pair=pair)
            self.add("corolla_ensemble_pair_agreements_total", int(ours == theirs), **base, pair=pair)

    def label(self, route: str, domain: str, result: pb.ImageResult, truth: str) -> None:
        named = route in NAMED
        label = f"digits/{route}" if named else "adhoc"
        outcome = correctness(result.top[0].class_name == truth)
        self.add("corolla_feedback_submissions_total", route=label, status="matched")
        self.add("corolla_feedback_total", route=label, domain=LABEL_OF[domain], outcome=outcome)
        for member, vote in zip(labels_of(route) if named else [], result.members, strict=named):
            right = correctness(vote.top.class_name == truth)
            here = {"route": label, "domain": LABEL_OF[domain]}
            self.add("corolla_member_feedback_total", 1, **here, member=member, outcome=right)


def labels_of(route: str) -> list[str]:
    """The members of a named route as the metrics call them: without weights and versions."""
    members = NAMED[route].removeprefix("vote(").removesuffix(")").split(", ")
    return [member.rpartition(": ")[2] for member in members]


def shape(votes: list[int]) -> str:
    (_, most), *others = Counter(votes).most_common()
    if not others:
        return "unanimous"
    if most > len(votes) / 2:
        return "majority"
    return "tie" if others[0][1] == most else "plurality"


def correctness(right: bool) -> str:
    return "correct" if right else "incorrect"


def test_what_prometheus_scrapes_is_an_exact_recount_of_the_answers(serving: Serving) -> None:
    images, recount, labels = digits(60), Recount(), []
    with Client(serving.address) as client:
        assert client.serving()
        for number, route in enumerate(ROUTES):
            domain = DOMAINS[number % len(DOMAINS)]
            for start in (0, 30):
                part = images[start : start + 30]
                asked = [data for data, _ in part]
                answer = client.classify(asked, route=route, task="digits", domain=domain, members=True)
                for result, (_, truth) in zip(answer.results, part, strict=True):
                    assert not result.error.code
                    recount.answer(route, domain, result)
                    labels.append((route, domain, result, truth))
                recount.add("corolla_requests_total", method="Classify", code="OK")
        for route, domain, result, truth in labels[::3]:
            recount.label(route, domain, result, truth)
        sent = [(result.prediction_id, truth) for *_, result, truth in labels[::3]]
        reply = client.feedback(sent)
        recount.add("corolla_requests_total", method="Feedback", code="OK")
        repeated = client.feedback(sent[:1])
        recount.add("corolla_requests_total", method="Feedback", code="OK")
        recount.add("corolla_feedback_submissions_total", route="adhoc", status="duplicate")

    assert {result.status for result in reply.results} == {pb.FEEDBACK_STATUS_MATCHED}
    assert repeated.results[0].status == pb.FEEDBACK_STATUS_DUPLICATE
    scraped = serving.scrape()
    checked = {name for name, _ in recount.numbers}
    said = {key: value for key, value in scraped.items() if key[0] in checked and value}
    expected = {key: value for key, value in recount.numbers.items() if value}
    sums = {key for key in expected if key[0].endswith("_sum")}
    assert said.keys() == expected.keys()
    assert {key: said[key] for key in said.keys() - sums} == {
        key: expected[key] for key in expected.keys() - sums
    }
    for key in sums:  # the answers carry float32
        assert said[key] == pytest.approx(expected[key], rel=1e-6), key
    assert scraped["corolla_queue_rows", frozenset()] == 0
    rows = sum(len(NAMED.get(route, route).split(",")) for route in ROUTES) * len(images)
    frozen = sum(value for (name, _), value in scraped.items() if name == "corolla_frozen_predictions_total")
    assert scraped["corolla_batch_rows_sum", frozenset()] == rows + frozen


def test_the_answers_are_better_than_chance(serving: Serving) -> None:
    images = digits(60)
    with Client(serving.address) as client:
        response = client.classify([data for data, _ in images], route="lora", task="digits")

    truths = [truth for _, truth in images]
    right = [r.top[0].class_name == truth for r, truth in zip(response.results, truths, strict=True)]
    assert np.mean(right) > 0.2


def test_a_bad_image_makes_the_command_exit_1(serving: Serving, corolla: Corolla, tmp_path: Path) -> None:
    (tmp_path / "digit.png").write_bytes(digits(1)[0][0])
    (tmp_path / "torn.png").write_bytes(digits(1)[0][0][:50])
    images = [str(tmp_path / "digit.png"), str(tmp_path / "torn.png")]
    command = corolla.command("classify", *images, "--route", "trio", "--server", serving.address, "--json")

    done = subprocess.run(command, **corolla.options, timeout=LIMIT_S, check=False)

    assert done.returncode == 1, done.stderr
    fine, torn = json.loads(done.stdout)["results"]
    assert fine["top"][0]["class_name"] in set("0123456789")
    assert torn["error"]["code"] == 3


def test_a_terminated_server_exits_0(serving: Serving) -> None:
    serving.process.send_signal(signal.SIGTERM)
    _, said = serving.process.communicate(timeout=LIMIT_S)

    assert serving.process.returncode == 0, said
    assert "all queued work was done" in said
    assert "Traceback" not in said
