"""`corolla.Store`: the same answers, records and errors as the server and the command line."""

import inspect
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import corolla
from corolla import command
from petl_vit.errors import Conflict, InvalidInput, NotFound, Unsupported
from tests.serving.world import SHAPES, Running, World, encoded, pixels
from tests.training.conftest import write_npz
from training.run.job import Job
from training.run.recipe import Recipe


def opened(folder: Path) -> corolla.Store:
    return corolla.Store(folder, device="cpu", precision="fp32", threads=1)


@pytest.fixture(scope="module")
def store(world: World) -> Iterator[corolla.Store]:
    """Over a store that no test changes."""
    with opened(world.folder) as store:
        yield store


# Classifying


def test_it_answers_as_a_server_does(store: corolla.Store, running: Running) -> None:
    images = [encoded(seed) for seed in range(40)]  # more than one group
    found = store.classify(images, route="best", task="shapes", top_k=2)

    with running.client() as client:
        reply = client.classify(images, route="best", task="shapes", top_k=2, probabilities=True)
    for mine, other in zip(found, reply.results, strict=True):
        assert mine.error is None
        assert [score.label for score in mine.top] == [score.class_name for score in other.top]
        assert mine.label == mine.top[0].label
        assert mine.probability == pytest.approx(other.top[0].probability, rel=1e-4)
        assert mine.probabilities == pytest.approx(np.array(other.probabilities), rel=1e-4)
        assert mine.agreement == pytest.approx(other.agreement)
        assert mine.entropy == pytest.approx(other.entropy, rel=1e-4)
        assert mine.mutual_information == pytest.approx(other.mutual_information, rel=1e-3, abs=1e-6)
        assert len(mine.votes) == 3
        assert set(mine.votes) <= set(SHAPES)
        assert mine.route == reply.route


def test_an_image_is_the_same_as_path_bytes_pillow_image_and_pixels(
    store: corolla.Store, tmp_path: Path
) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(1))
    images = [path, str(path), encoded(1), Image.open(path), pixels(1)]
    answers = store.classify(images, route="lora", task="shapes")

    for answer in answers:
        assert answer.probabilities == pytest.approx(answers[0].probabilities, rel=1e-5)


def test_a_pillow_image_is_turned_upright_and_laid_over_white_as_its_file_is(
    store: corolla.Store, tmp_path: Path
) -> None:
    path = tmp_path / "turned.png"
    image = Image.fromarray(pixels(2)).convert("RGBA")
    image.putalpha(90)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    from_file, from_pillow = store.classify([path, Image.open(path)], route="lora", task="shapes")

    assert from_pillow.probabilities == pytest.approx(from_file.probabilities, rel=1e-6)


def test_a_bad_image_has_its_error_and_spoils_no_other(store: corolla.Store, tmp_path: Path) -> None:
    truncated = Image.open(io.BytesIO(encoded(0)[:900]))
    bad = [b"no image", tmp_path / "gone.png", np.zeros((4, 4)), truncated, None]
    images = [encoded(seed) for seed in range(35)]
    images[33:33] = bad  # type: ignore[arg-type]
    answers = store.classify(images, route="lora", task="shapes")

    assert [i for i, answer in enumerate(answers) if answer.error] == [33, 34, 35, 36, 37]
    for number, answer in enumerate(answers[33:38], 33):
        assert answer.error is not None
        assert answer.error.field == f"images[{number}]"
        with pytest.raises(type(answer.error), match="images"):
            _ = answer.label
    assert isinstance(answers[34].error, NotFound)


def test_only_bad_images_are_only_errors(store: corolla.Store) -> None:
    answers = store.classify([b"", b"x"], route="lora", task="shapes")

    assert all(isinstance(answer.error, InvalidInput) for answer in answers)


def test_images_may_come_from_any_iterable(store: corolla.Store) -> None:
    answers = store.classify((encoded(seed) for seed in range(2)), route="lora", task="shapes")
    stacked = store.classify(np.stack([pixels(0), pixels(1)]), route="lora", task="shapes")

    assert [one.label for one in answers] == [one.label for one in stacked]


def test_an_alpha_may_differ_by_block(store: corolla.Store) -> None:
    images = [encoded(seed) for seed in range(2)]
    whole, same, lines = (
        store.classify(images, route=route, task="shapes")
        for route in ("0.6*lora", "0.6[0-1]*lora", "0.2..1*lora")
    )
    assert [one.probability for one in whole] == [one.probability for one in same]
    assert [one.probability for one in whole] != [one.probability for one in lines]


def test_no_images_are_no_answers(store: corolla.Store) -> None:
    assert store.classify([], route="lora", task="shapes") == []


ONE = [b"x", "cat.jpg", Path("cat.jpg"), np.zeros((8, 8, 3), np.uint8), Image.new("RGB", (8, 8))]


@pytest.mark.parametrize("image", ONE, ids=lambda image: type(image).__name__)
def test_one_image_in_the_place_of_a_list_is_refused(store: corolla.Store, image: object) -> None:
    with pytest.raises(InvalidInput, match="put it in a list"):
        store.classify(image, route="lora", task="shapes")  # type: ignore[arg-type]


def test_a_name_that_does_not_exist_is_told_with_near_ones(store: corolla.Store) -> None:
    with pytest.raises(NotFound, match="did you mean lora"):
        store.classify([encoded(0)], route="lorra", task="shapes")


def test_a_bar_is_shown_on_request_alone(store: corolla.Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.classify([encoded(0)], route="lora", task="shapes")
    assert capsys.readouterr().err == ""
    store.classify([encoded(0)], route="lora", task="shapes", progress=True)
    assert "classifying: 1 in" in capsys.readouterr().err


# Embedding


def test_features_are_those_of_a_server(store: corolla.Store, running: Running) -> None:
    images = [encoded(0), encoded(1)]
    with running.client() as client:
        for route in ("", "lora"):
            found = store.embed([*images, b""], route=route, task="shapes", normalise=True)
            reply = client.embed(images, route=route, task="shapes", normalise=True)

            for mine, other in zip(found, reply.results, strict=False):
                assert mine.route == reply.route
                assert mine.vector == pytest.approx(np.array(other.values), rel=1e-3, abs=1e-5)
            assert found[2].error is not None
            with pytest.raises(InvalidInput, match=r"images\[2\]"):
                _ = found[2].vector


def test_an_ensemble_has_no_features(store: corolla.Store) -> None:
    with pytest.raises(InvalidInput, match="features are of one model"):
        store.embed([encoded(0)], route="lora, ssf", task="shapes")


# Names


def test_records_are_those_of_the_store(store: corolla.Store, world: World) -> None:
    assert store.backbones() == world.store.backbones.list()
    assert store.tasks() == world.store.tasks.list()
    assert store.routes() == world.store.routes.list()
    assert store.adapter("lora@prod", task="shapes").version == 1
    assert store.aliases("shapes/lora") == {"latest": 2, "prod": 1}
    (newest,) = (m for m in store.adapters("shapes") if m.name == "lora")
    assert newest.version == 2


def test_a_name_that_moves_counts_at_once(own_world: World) -> None:
    with opened(own_world.folder) as store:

        def answering(route: str) -> str:
            return store.classify([encoded(0)], route=route, task="shapes")[0].route

        assert answering("lora@prod") == "lora:1"
        assert store.set_alias("lora", "prod", 2, task="shapes", expected=1) == 1
        assert answering("lora@prod") == "lora:2"
        with pytest.raises(Conflict):
            store.set_alias("lora", "prod", 2, task="shapes", expected=1)

        assert store.put_route("both", "ssf, lora", task="shapes").route == "ssf:1, lora:2"
        assert answering("both") == "ssf:1, lora:2"
        store.put_route("both", "0.5*ssf", task="shapes")
        assert answering("both") == "0.5*ssf:1"
        store.delete_route("both", task="shapes")
        with pytest.raises(NotFound):
            answering("both")


def test_the_task_may_be_left_out_where_there_is_one_alone(store: corolla.Store) -> None:
    with pytest.raises(InvalidInput, match="3 tasks"):
        store.adapter("lora")


def test_it_computes_again_after_it_was_closed(world: World) -> None:
    store = opened(world.folder)
    first = store.classify([encoded(0)], route="lora", task="shapes")
    store.close()
    store.close()
    again = store.classify([encoded(0)], route="lora", task="shapes")
    store.close()

    assert again[0].probabilities == pytest.approx(first[0].probabilities, rel=1e-6)


def test_a_setting_that_cannot_work_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="device"):
        corolla.Store(tmp_path, device="tpu")  # type: ignore[arg-type]


def test_the_store_is_that_of_the_variable_where_none_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COROLLA_STORE", str(world.folder))
    assert corolla.Store().backbones() == world.store.backbones.list()


# Training and measuring


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `trained` is, and its images."""
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def data(folder: Path) -> str:
    return write_npz(folder / "digits.npz", classes=3, images=24)


@pytest.fixture(scope="module")
def trained(folder: Path, data: str) -> corolla.Store:
    """A store with a tiny backbone and one adapter, all made by the API."""
    store = opened(folder / "store")
    backbone = store.import_backbone("random:vit_tiny_patch16_224", image_size=32, options={"depth": 1})
    assert store.backbones() == [backbone]
    store.train("lora", data=data, task="digits", rank=2, epochs=1, runs=folder / "runs")
    return store


def test_a_trained_adapter_is_registered_with_its_metrics(trained: corolla.Store) -> None:
    (manifest,) = trained.adapters("digits")

    assert (str(manifest), manifest.method, manifest.config["rank"]) == ("digits/lora:1", "lora", 2)
    assert 0 <= manifest.metrics["accuracy"] <= 1
    assert manifest.training["epochs"] == 1


def test_training_again_says_what_is_registered(trained: corolla.Store, data: str, tmp_path: Path) -> None:
    again = trained.train("lora", data=data, task="digits", rank=2, epochs=1, runs=tmp_path)
    assert again == trained.adapter("lora")


def test_what_is_trained_answers_at_once_by_its_newest_version(
    trained: corolla.Store, data: str, tmp_path: Path
) -> None:
    def train(seed: int) -> int:
        manifest = store.train("bitfit", data=data, task="digits", epochs=1, seed=seed, runs=tmp_path)
        return manifest.version

    with trained as store:
        for seed in (1, 2):
            version = train(seed)
            (answer,) = store.classify([pixels(0)], route="bitfit")
            assert answer.route == f"bitfit:{version}"


def test_routes_are_measured_as_the_command_measures_them(
    trained: corolla.Store, folder: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = trained.evaluate(["lora", "0.5*lora"], data=data, shifts=["noise:2"], limit=9)

    monkeypatch.setenv("COROLLA_STORE", str(folder / "store"))
    flags = ["--route", "lora", "--route", "0.5*lora", "--shift", "noise:2", "--limit", "9", "--json"]
    flags += ["--task", "digits", "--data", data, "--device", "cpu", "--precision", "fp32"]
    done = CliRunner().invoke(command.corolla, ["evaluate", *flags])
    found = json.loads(done.stdout)
    assert [(row.route, row.accuracy, row.confidence) for row in rows] == [
        (one["route"], one["accuracy"], one["confidence"]) for one in found["results"]
    ]
    assert [row.data for row in rows] == [data, f"{data} noise:2"] * 2
    document = trained.evaluation("lora", data=data, alphas=[0.5], limit=9)
    assert document.results[0].accuracy == rows[0].accuracy
    assert document.curves[0].accuracy[document.reference.name][1] == rows[2].accuracy


def test_a_misspelt_argument_of_training_is_told(trained: corolla.Store) -> None:
    with pytest.raises(InvalidInput, match=r"rnk: lora has no setting 'rnk'; did you mean rank\?"):
        trained.train("lora", data="digits", task="digits", rnk=4)
    with pytest.raises(InvalidInput, match=r"did you mean epochs\?"):
        trained.train("lora", data="digits", task="digits", epoch=4)
    with pytest.raises(NotFound, match=r"did you mean lora\?"):
        trained.train("lorra", data="digits", task="digits")
    with pytest.raises(Unsupported, match="not trained itself"):
        trained.train("soup", data="digits", task="digits")


def test_the_defaults_of_training_are_the_recipes_and_the_jobs() -> None:
    given = inspect.signature(corolla.Store.train).parameters
    recipe = {name: field.default for name, field in Recipe.model_fields.items() if name in given}
    job = {name: field.default for name, field in Job.__dataclass_fields__.items() if name in given}
    own = {"learning_rate", "drop_path", "augment", "method", "data", "task", "name", "runs"}

    for name, default in (recipe | job).items():
        if name not in own:
            assert given[name].default == default, name
