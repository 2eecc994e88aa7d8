"""Every program in examples/ runs, against a real server or store with a tiny random backbone."""

import ast
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import corolla
from tests.serving.access.callers import Callers
from tests.serving.certificates import Certificates
from tests.serving.world import SHAPES, Running, World, encoded
from tests.training.conftest import write_npz

FOLDER = Path(corolla.__file__).parent.parent / "examples"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a program as from a shell, and gives what it prints."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(paths):
        path.write_bytes(encoded(seed))
    return [str(path) for path in paths]


@pytest.fixture
def server(running: Running) -> tuple[str, ...]:
    return ("--server", running.address, "--task", "shapes")


def test_classify_prints_the_class_and_what_the_members_say(
    run: Run, images: list[str], server: tuple[str, ...], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    said = run("classify", *images, str(bad), *server, "--route", "lora, bitfit")

    assert said.startswith("answered by lora:2, bitfit:1\n")
    for image in images:
        assert re.search(rf"{image} \w+ 0\.\d+ agreement [01]\.\d+,? lora:2: \w+, bitfit:1: \w+", said)
    assert f"{bad} - " in said


def test_ensemble_and_wise_goes_from_the_frozen_backbone_to_the_ensemble(
    run: Run, images: list[str], server: tuple[str, ...]
) -> None:
    lines = run("ensemble_and_wise", *images, *server, "--adapters", "lora", "ssf").splitlines()

    assert [line.partition(" mean ")[0].strip() for line in lines] == [
        "0*lora:2",
        "0.25*lora:2",
        "0.5*lora:2",
        "0.75*lora:2",
        "lora:2",
        "lora:2, ssf:1",
        "vote(lora:2, ssf:1)",
    ]


def test_embed_finds_the_image_that_is_there_twice(
    run: Run, images: list[str], server: tuple[str, ...], tmp_path: Path
) -> None:
    twin = tmp_path / "twin.png"
    twin.write_bytes(encoded(1))
    said = run("embed", *images, str(twin), *server, "--route", "lora")

    assert "features of lora:2: 48 numbers" in said
    assert f"{images[1]} and {twin} are 1.000 alike" in said


def test_stream_answers_every_image(run: Run, images: list[str], server: tuple[str, ...]) -> None:
    lines = run("stream", *images, *server).splitlines()

    assert sorted(line.split()[0] for line in lines) == sorted(images)
    assert {line.split()[1] for line in lines} <= {*SHAPES}


def test_feedback_says_of_each_label_whether_the_prediction_was_right(
    run: Run, images: list[str], server: tuple[str, ...]
) -> None:
    lines = run("feedback", *(f"{image}=star" for image in images), *server).splitlines()

    assert [line.rsplit(maxsplit=1)[0] for line in lines] == [f"{image} star" for image in images]
    assert {line.rsplit(maxsplit=1)[1] for line in lines} <= {"correct", "incorrect"}


def test_oip_answers_as_corollas_own_protocol_does(run: Run, images: list[str], running: Running) -> None:
    lines = run("oip", *images, "--server", running.address, "--model", "shapes/lora").splitlines()

    with running.client() as client:
        answer = client.classify([encoded(seed) for seed in range(3)], route="lora", task="shapes")
    numbers = [SHAPES.index(result.top[0].class_name) for result in answer.results]
    assert lines == [f"{path} class {number}" for path, number in zip(images, numbers, strict=True)]


def test_secured_shows_its_token_over_tls(
    run: Run, images: list[str], world: World, certificates: Certificates, tmp_path: Path
) -> None:
    callers = Callers(tmp_path / "principals.json")
    token = tmp_path / "app.token"
    token.write_text(callers.add("app", "infer"))
    files = {"tls_certificate": "server.pem", "tls_key": "server.key"}
    shown = {name: certificates.path(file) for name, file in files.items()}
    with Running(world.settings(principals=str(callers.write()), **shown)) as server:
        words = [*images, "--server", server.address, "--ca", certificates.path("ca.pem"), "--task", "shapes"]
        answered = run("secured", *words, "--token-file", str(token))
        token.write_text(Callers(tmp_path / "others.json").add("app"))
        refused = run("secured", *words, "--token-file", str(token))

    assert [line.split()[1] in SHAPES for line in answered.splitlines()] == [True] * 3
    assert refused.count("UNAUTHENTICATED") == 3
    assert "the token is not known here" in refused


@pytest.mark.machine
def test_in_process_answers_without_a_server(run: Run, images: list[str], world: World) -> None:
    said = run("in_process", *images, "--store", str(world.folder), "--task", "shapes")

    assert "shapes/lora:2 lora" in said
    for image in images:
        assert re.search(rf"{image} ({'|'.join(SHAPES)}) 0\.\d+", said)
    assert "features (5, 48)" in said


@pytest.mark.machine
def test_train_trains_once_and_measures_the_ensemble(run: Run, tmp_path: Path) -> None:
    data = write_npz(tmp_path / "digits.npz", classes=3, images=30)
    folder = str(tmp_path / "store")
    with corolla.Store(folder) as store:
        store.import_backbone("random:vit_tiny_patch16_224", image_size=32, options={"depth": 1})
    options = ["--store", folder, "--data", data, "--epochs", "1", "--runs", str(tmp_path / "runs")]
    first, again = run("train", *options), run("train", *options)

    assert re.fullmatch(r"lora:1: accuracy .*\nssf:1: accuracy .*\nboth: accuracy .*, agreement .*\n", first)
    assert again == first


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_short_and_says_how_to_run_it(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text()
    docstring = ast.get_docstring(ast.parse(text))

    assert len(text.splitlines()) < 40
    assert docstring is not None
    assert f"python examples/{name}.py" in docstring


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_is_run_by_a_test(name: str) -> None:
    assert f'run("{name}", ' in Path(__file__).read_text()
