import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from corolla.command import run
from corolla.commands.package import package
from corolla.group import MissingExtra
from tests.serving.world import World

pytest.importorskip("model_archiver", reason="the extra `torchserve` is not installed")


def test_it_prints_what_it_wrote_how_to_start_it_and_the_warning(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "served"

    assert run(["package", "torchserve", "--store", str(world.folder), "--out", str(out)]) == 0

    said = capsys.readouterr()
    assert said.out.splitlines() == [
        str(out / "corolla.mar"),
        str(out / "config.properties"),
        str(out / "metrics.yaml"),
        f"start it: torchserve --start --ncs --ts-config {out / 'config.properties'}",
    ]
    assert "archived since 2025-08-07 and gets no security fixes" in said.err


def test_a_machine_without_java_is_told(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))

    assert (
        run(["package", "torchserve", "--store", str(world.folder), "--out", str(tmp_path / "served")]) == 0
    )

    assert "TorchServe needs Java 17 or newer" in capsys.readouterr().err


def test_its_help_says_that_torchserve_is_archived() -> None:
    said = " ".join(CliRunner().invoke(package, ["torchserve", "--help"]).output.split())
    assert "archived since 2025-08-07 and gets no security fixes" in said
    assert "corolla package torchserve --out" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--backbone", "other"], "corolla: --backbone: no backbone 'other'"),
        (["--name", "a b"], "corolla: --name: 'a b' is not a name that TorchServe takes"),
        (["--device", "tpu"], "corolla: Invalid value for '--device'"),
    ],
)
def test_a_mistake_is_said_in_one_line(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    command = [
        "package",
        "torchserve",
        "--store",
        str(world.folder),
        "--out",
        str(tmp_path / "served"),
        *flags,
    ]

    assert run(command) == 2

    error = capsys.readouterr().err
    assert error.startswith(said)
    assert error.count("\n") == 1
    assert not (tmp_path / "served").exists()


def test_a_missing_extra_is_named(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "model_archiver.model_archiver_config", None)

    assert (
        run(["package", "torchserve", "--store", str(world.folder), "--out", str(tmp_path / "served")]) == 2
    )

    assert capsys.readouterr().err == f"corolla: {MissingExtra('package', 'model_archiver', 'torchserve')}\n"
    assert not (tmp_path / "served").exists()
