"""What `corolla evaluate` says is what `corolla predict` writes and a server answers, in either precision.

The same store, image files and precision on three ways: the measurement in this process, the bulk run, and a
server over a real channel.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from corolla.command import run
from model_store.resolution.loading import Loader
from model_store.routes.text import parse_route
from petl_vit.precision import Precision
from petl_vit.preprocess import decode
from serving.bulk.run import Bulk, predict
from serving.bulk.sources import listed
from tests.serving.world import SHAPES, Running, World, encoded
from training.data.sources import load_dataset
from training.measure.candidate import Candidate
from training.measure.logits import logits_of_routes

TASK = "shapes"
IMAGES = 24
ROUTES = ("base", "lora", "ssf, 0.5*full", "prob(lora, vpt-deep, vqt)", "best")
BOUND = {Precision.FP32: 1e-5, Precision.BF16: 1e-2}
"""What rows beside one may change of its log-probabilities, relative to the largest."""

Probabilities = Mapping[str, NDArray[np.float64]]
"""[n, C] of each route."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("evaluated") / "store")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled images, PNG and JPEG; the labels are nobody's opinion."""
    root = tmp_path_factory.mktemp("evaluated") / "photos"
    for i in range(IMAGES):
        kind = ("PNG", "JPEG")[i % 2]
        place = root / SHAPES[i % len(SHAPES)]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:02}.{kind.lower()}").write_bytes(encoded(i, kind))
    return root


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def evaluated(world: World, folder: Path, precision: Precision) -> Probabilities:
    dataset = load_dataset(str(folder))
    for place, path in enumerate(files(folder)):  # or images would be compared with other images
        assert torch.equal(dataset.images[place], decode(path.read_bytes()))
    loader = Loader(world.store, world.backbone, precision=precision)
    candidates = [candidate(world, text) for text in ROUTES]
    logits = logits_of_routes(loader, [one.route for one in candidates], dataset)
    return {
        text: logits.answer(one.route, temperature=one.temperature).probabilities
        for text, one in zip(ROUTES, candidates, strict=True)
    }


def candidate(world: World, text: str) -> Candidate:
    named = world.store.routes.meant_by(TASK, parse_route(text))
    if named is None:
        return Candidate(route=world.resolve(text))
    return Candidate(route=world.resolve(named.route), temperature=named.temperature)


def predicted(world: World, folder: Path, precision: Precision, scratch: Path) -> Probabilities:
    found = {}
    for number, text in enumerate(ROUTES):
        bulk = Bulk(
            sources=listed([folder], column="path").images,
            task=TASK,
            route=parse_route(text),
            probabilities=True,
        )
        out = scratch / f"{number}.jsonl"
        settings = {"store": str(world.folder), "precision": str(precision), "device": "cpu", "threads": 1}
        assert predict(bulk, out, settings).precision == precision
        rows = {row["path"]: row["probabilities"] for row in map(json.loads, out.read_text().splitlines())}
        found[text] = np.array([[rows[str(path)][name] for name in SHAPES] for path in files(folder)])
    return found


def served(world: World, folder: Path, precision: Precision) -> Probabilities:
    images = [path.read_bytes() for path in files(folder)]
    with (
        Running(world.settings(precision=str(precision), device="cpu")) as running,
        running.client() as client,
    ):
        replies = {
            text: client.classify(images, route=text, task=TASK, probabilities=True) for text in ROUTES
        }
    return {
        text: np.array([list(result.probabilities) for result in reply.results])
        for text, reply in replies.items()
    }


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_evaluate_predict_and_a_server_agree(
    world: World, folder: Path, tmp_path: Path, precision: Precision
) -> None:
    ours = evaluated(world, folder, precision)
    decided = 0
    for theirs in (predicted(world, folder, precision, tmp_path), served(world, folder, precision)):
        for text in ROUTES:
            a, b = np.log(ours[text]), np.log(theirs[text])
            bound = BOUND[precision] * np.abs(a).max()
            assert np.abs(a - b).max() <= bound, text
            ranked = np.sort(a, axis=1)
            clear = ranked[:, -1] - ranked[:, -2] > 2 * bound
            assert (a.argmax(axis=1) == b.argmax(axis=1))[clear].all(), text
            decided += int(clear.sum())
    assert decided > IMAGES * len(ROUTES)  # of twice as many: the bound does not excuse everything


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_the_commands_accuracy_is_that_of_the_servers_answers(
    world: World, folder: Path, capsys: pytest.CaptureFixture[str], precision: Precision
) -> None:
    command = ["evaluate", "--task", TASK, "--data", str(folder), "--store", str(world.folder), "--json"]
    command += [word for text in ROUTES for word in ("--route", text)]
    assert run([*command, "--device", "cpu", "--precision", precision.value]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["machine"]["precision"] == precision
    labels = [SHAPES.index(path.parent.name) for path in files(folder)]
    answers = served(world, folder, precision)
    for row, (text, probabilities) in zip(document["results"], answers.items(), strict=True):
        ranked = np.sort(np.log(probabilities), axis=1)
        bound = BOUND[precision] * np.abs(ranked).max()
        unclear = (ranked[:, -1] - ranked[:, -2] <= 2 * bound).mean()
        accuracy = (probabilities.argmax(axis=1) == labels).mean()
        assert abs(row["accuracy"] - accuracy) <= unclear, text
