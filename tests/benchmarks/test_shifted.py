"""What monitoring says of shifted images: each step on a small ensemble, and the whole as people run it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shifted import __main__ as shifted
from benchmarks.shifted import grid, members
from benchmarks.shifted.detection import detections
from benchmarks.shifted.domains import Domain
from benchmarks.shifted.grid import Grid
from benchmarks.shifted.served import Served, reference_of
from benchmarks.shifted.windows import windows
from model_store.resolution.loading import member_key
from petl_vit.precision import Precision
from tests.serving.world import World
from training.data.dataset import subset
from training.data.records import Dataset
from training.data.sources import load_dataset
from training.measure.candidate import Candidate
from training.measure.logits import Logits

pytestmark = pytest.mark.benchmarks

WIDTH = 48


@pytest.fixture(scope="module")
def route(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    world = World.make(tmp_path_factory.mktemp("world") / "store")
    return Candidate(route=world.resolve("lora, ssf, bitfit, adaptformer"), name="four")


def domain(route: Candidate, name: str, images: int, noise: float) -> Domain:
    """Members that see the truth through noise, partly the same for all."""
    random = np.random.default_rng([images, round(100 * noise)])
    labels = random.integers(0, 3, images)
    shared = random.normal(size=(images, 3)) * noise
    logits = {
        member_key(member): (3 * np.eye(3)[labels] + shared + random.normal(size=(images, 3)) * noise).astype(
            np.float32
        )
        for member in route.route.members
    }
    return Domain(
        name=name,
        labels=labels,
        logits=Logits(members=logits),
        features=random.normal(size=(images, WIDTH)) * (1 + noise / 10),
        base=3 * np.eye(3)[labels] + random.normal(size=(images, 3)),
    )


@pytest.fixture(scope="module")
def served(route: Candidate) -> Served:
    return Served(route, reference_of(route, domain(route, "reference", 400, 1.0), Precision.FP32))


def test_counters_of_a_stream_are_the_sums_of_what_its_images_add(route: Candidate, served: Served) -> None:
    images = domain(route, "clean", 30, 1.0)
    traces = served.traces(images)
    times = np.zeros(30, dtype=np.int64)
    times[[3, 7]] = [2, 1]
    sums = dict(zip(traces.series, traces.sums(times, frozen=times, labelled=times), strict=True))
    place = (("domain", "stream"), ("route", served.name))
    assert sums["corolla_predictions_total", place] == 3
    assert sums["corolla_frozen_predictions_total", place] == 3
    right = 2 * traces.correct[3] + traces.correct[7]
    outcome = (place[0], ("outcome", "correct"), place[1])
    assert sums["corolla_feedback_total", outcome] == right


def test_traces_under_another_reference_are_those_of_a_new_count(route: Candidate, served: Served) -> None:
    images = domain(route, "clean", 30, 1.0)
    other = Served(route, reference_of(route, domain(route, "reference", 300, 2.0), Precision.FP32))
    rescored = other.rescored(served.traces(images), images)
    again = other.traces(images)
    assert rescored.series == again.series
    np.testing.assert_allclose(rescored.added, again.added, atol=1e-9)


def test_windows_have_the_evaluators_estimates_beside_the_truth(route: Candidate, served: Served) -> None:
    clean = served.traces(domain(route, "clean", 120, 1.0))
    found = list(windows(served, clean, (100, 300), seeds=2))
    assert [(one.images, one.seed) for one in found] == [(100, 0), (100, 1), (300, 0), (300, 1)]
    for one in found:
        assert {"atc_mc", "atc_ne", "confidence", "doc", "vote", "bbse"} <= one.estimates.keys()
        assert one.headline is not None
        assert abs(one.headline.value - one.truth) < 0.1


def test_a_large_shift_is_found_and_a_calm_stream_is_not(route: Candidate, served: Served) -> None:
    calm = served.traces(domain(route, "clean", 120, 1.0))
    far = served.traces(domain(route, "far", 60, 4.0))
    (found,) = detections(served, calm, far, seeds=1)
    assert found.alarms["shift"].kind == "shift"
    assert 0 < found.images["shift"] <= 1000
    (silent,) = detections(served, calm, calm, seeds=1)
    assert not silent.alarms


def test_a_page_has_the_tables_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: digits -->\nold\n<!-- end of digits -->\nafter\n")
    grid.write(page, "digits", Grid(title="t", columns=("a", "b"), rows=[("x", "1")]).markdown())
    assert "old" not in page.read_text()
    assert "| x | 1 |\n<!-- end of digits -->\nafter" in page.read_text()
    grid.write(page, "pacs", "new")
    assert page.read_text().endswith("after\n\n<!-- measured: pacs -->\nnew\n<!-- end of pacs -->\n")


def test_it_ends_with_what_is_asked_of_monitoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def few(source: str) -> Dataset:
        return subset(load_dataset(source), 150, 0)

    monkeypatch.setattr(members, "load_dataset", few)
    tiny = replace(
        members.Plan(),
        source="random:test_vit",
        image_size=32,
        images=30,
        heldout=110,
        others=10,
        methods=("lora", "ssf", "bitfit", "adaptformer"),
        epochs=1,
        members=2,
        precision="fp32",
    )
    monkeypatch.setattr(shifted, "plan_of", lambda asked: tiny)
    page = tmp_path / "page.md"
    page.write_text("<!-- measured: digits -->\n<!-- end of digits -->\n")
    flags = ["--seeds", "2", "--splits", "2", "--images", "4000", "--shift", "noise:3", "--precision", "fp32"]
    shifted.main([*flags, "--folder", str(tmp_path), "--page", str(page)])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["benchmark"], found["streams"], found["seeds"]) == ("shifted", 2, 2)
    assert found["reference_images"] + found["streamed_images"] == 110
    assert "| noise:3 |" in page.read_text()
