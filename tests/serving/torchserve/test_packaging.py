"""The folder for TorchServe, read as TorchServe would; no Java."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from model_store.store import Store
from petl_vit.errors import Conflict, CorollaError, InvalidInput, NotFound
from serving.torchserve.counts import counters
from serving.torchserve.packaging import FORMAT, NOTICE, Package, java_problem, settings_of
from tests.serving.world import CONFIG, World, backbone_tensors

yaml = pytest.importorskip("yaml", reason="the extra `torchserve` is not installed")
pytest.importorskip("model_archiver", reason="the extra `torchserve` is not installed")


def package(world: World, **changes: Any) -> Package:
    return Package(store=world.store, backbone=world.backbone, **changes)


def part(archive: Path, name: str) -> str:
    with zipfile.ZipFile(archive) as opened:
        return opened.read(name).decode()


def model_config(archive: Path) -> Any:
    return yaml.safe_load(part(archive, "model-config.yaml"))


def test_the_folder_has_all_that_torchserve_needs(world: World, tmp_path: Path) -> None:
    files = package(world, name="pets").write(tmp_path / "served")

    assert [file.name for file in files] == ["pets.mar", "config.properties", "metrics.yaml"]
    assert {file.name for file in (tmp_path / "served").iterdir()} == {file.name for file in files}
    with zipfile.ZipFile(files[0]) as archive:
        assert set(archive.namelist()) == {"handler.py", "model-config.yaml", "MAR-INF/MANIFEST.json"}
    model = json.loads(part(files[0], "MAR-INF/MANIFEST.json"))["model"]
    assert model == {
        "modelName": "pets",
        "handler": "handler.py",
        "modelVersion": "1.0",
        "configFile": "model-config.yaml",
    }


def test_an_archive_takes_its_settings_along(world: World, tmp_path: Path) -> None:
    chosen = {"device": "cpu", "precision": "fp32", "domains": 'a: "b", {c}', "threads": 3}

    archive, *_ = package(world, settings=chosen).write(tmp_path)

    settings = settings_of(model_config(archive))
    assert (settings.store, settings.backbone) == (str(world.folder), world.backbone.digest)
    assert {name: getattr(settings, name) for name in chosen} == chosen


def test_a_relative_store_is_found_from_anywhere(
    own_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own_world.folder.parent)
    store = Store.open(own_world.folder.name)

    archive, *_ = Package(store=store, backbone=own_world.backbone).write(tmp_path / "served")

    assert model_config(archive)["handler"]["store"] == str(own_world.folder)


def test_one_worker_gets_all_that_waits(world: World, tmp_path: Path) -> None:
    config = model_config(package(world).write(tmp_path)[0])

    assert (config["minWorkers"], config["maxWorkers"]) == (1, 1)
    assert (config["batchSize"], config["maxBatchDelay"]) == (32, 1)


@pytest.mark.parametrize(("device", "type_"), [("cpu", "cpu"), ("cuda", "gpu"), ("auto", "gpu")])
def test_the_worker_gets_a_gpu_unless_it_is_not_to(
    world: World, tmp_path: Path, device: str, type_: str
) -> None:
    archive, *_ = package(world, settings={"device": device}).write(tmp_path)
    assert model_config(archive)["deviceType"] == type_


def test_the_settings_keep_to_loopback_and_say_why_tokens_are_off(world: World, tmp_path: Path) -> None:
    _, properties, _ = package(world).write(tmp_path / "served")

    text = properties.read_text()
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    values = dict(line.split("=", 1) for line in lines)
    addresses = [value for name, value in values.items() if name.endswith("_address")]
    assert len(addresses) == 5
    assert all("127.0.0.1" in address for address in addresses)
    assert values["disable_token_authorization"] == "true"
    assert values["enable_model_api"] == "false"
    assert values["metrics_mode"] == "prometheus"
    assert (values["model_store"], values["load_models"]) == (str(tmp_path / "served"), "corolla.mar")
    assert "archived since 2025-08-07" in text
    assert "no security fixes" in NOTICE


def test_every_counter_that_is_sent_is_declared(world: World, tmp_path: Path) -> None:
    *_, metrics = package(world).write(tmp_path)

    declared = yaml.safe_load(metrics.read_text())

    assert {c["name"]: tuple(c["dimensions"]) for c in declared["model_metrics"]["counter"]} == dict(
        counters()
    )


def test_torchserves_own_metrics_are_all_declared(world: World, tmp_path: Path) -> None:
    ts = pytest.importorskip("ts")
    theirs = yaml.safe_load((Path(ts.__file__).parent / "configs" / "metrics.yaml").read_text())

    *_, metrics = package(world).write(tmp_path)

    ours = yaml.safe_load(metrics.read_text())
    assert ours["ts_metrics"] == theirs["ts_metrics"]
    assert ours["model_metrics"]["gauge"] == theirs["model_metrics"]["gauge"]


# What is refused


@pytest.mark.parametrize("name", ["", "../up", "-first", "a b", "a/b", "x" * 64, "ä"])
def test_a_name_that_torchserve_does_not_take_is_refused(world: World, name: str) -> None:
    for field in ("name", "version"):
        with pytest.raises(InvalidInput) as raised:
            package(world, **{field: name})
        assert raised.value.field == field


@pytest.mark.parametrize("settings", [{"device": "tpu"}, {"threads": 0}, {"colour": "red"}])
def test_a_setting_that_cannot_work_is_refused_before_anything_is_written(
    world: World, settings: dict[str, object]
) -> None:
    with pytest.raises(InvalidInput, match=next(iter(settings))):
        package(world, settings=settings)


def test_files_that_are_there_stay_unless_forced(world: World, tmp_path: Path) -> None:
    (tmp_path / "config.properties").write_text("mine")

    with pytest.raises(Conflict, match=r"config\.properties exists already; add --force"):
        package(world).write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.properties"]

    package(world).write(tmp_path, force=True)
    assert "inference_address" in (tmp_path / "config.properties").read_text()


def test_a_place_that_cannot_be_written_is_named(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(InvalidInput, match="cannot be written") as raised:
        package(world).write(tmp_path / "file" / "served")
    assert raised.value.field == "out"


def test_nothing_else_of_the_temporary_folder_is_touched(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch-model-archiver removes whatever is called like the model there.
    (tmp_path / "tmp" / "corolla").mkdir(parents=True)
    (tmp_path / "tmp" / "corolla" / "thesis.tex").write_text("years of work")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))

    package(world).write(tmp_path / "served")

    assert [path.name for path in (tmp_path / "tmp").rglob("*")] == ["corolla", "thesis.tex"]


def test_an_archive_for_another_backbone_is_refused(own_world: World, tmp_path: Path) -> None:
    archive, *_ = package(own_world).write(tmp_path / "served")
    shutil.rmtree(own_world.folder)
    other = own_world.store.backbones.put("tiny", CONFIG, backbone_tensors(1), "random")

    with pytest.raises(NotFound) as raised:
        settings_of(model_config(archive))

    assert raised.value.field == "backbone"
    assert f"has tiny ({other.digest[:12]})" in raised.value.problem
    assert "corolla package torchserve" in str(raised.value)


@pytest.mark.parametrize(
    "handler",
    [None, {}, {"format": FORMAT}, {"format": FORMAT + 1, "store": "s", "backbone": "b"}, {"store": "s"}],
)
def test_a_model_config_that_is_not_ours_is_refused(handler: object) -> None:
    with pytest.raises(InvalidInput, match="run corolla package torchserve again"):
        settings_of({"handler": handler})


def test_an_unknown_setting_in_an_archive_is_refused(world: World, tmp_path: Path) -> None:
    config = model_config(package(world).write(tmp_path)[0])
    config["handler"]["colour"] = "red"

    with pytest.raises(CorollaError, match="colour"):
        settings_of(config)


# Java


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ('openjdk version "17.0.15" 2025-04-15', None),
        ('openjdk version "21" 2023-09-19', None),
        ('openjdk version "11.0.2" 2019-01-15', "is version 11; TorchServe needs Java 17 or newer"),
        ('java version "1.8.0_292"', "is version 1; TorchServe needs Java 17 or newer"),
    ],
)
def test_java_must_be_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, problem: str | None
) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))

    message = java_problem()

    assert message == (None if problem is None else f"{java} {problem}")


def test_a_missing_java_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert "does not run here; TorchServe needs Java 17" in str(java_problem())
