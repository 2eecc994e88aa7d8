import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from corolla import command
from corolla.commands.predict import predict
from petl_vit.errors import InvalidInput, NotFound
from tests.serving.world import World, encoded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        (photos / f"{i}.png").write_bytes(encoded(i))
    return photos


def run(world: World, *arguments: object) -> Result:
    everything = [*map(str, arguments), "--store", str(world.folder), "--task", "shapes"]
    everything += ["--device", "cpu", "--precision", "fp32"]
    return CliRunner().invoke(predict, everything)


def test_a_folder_is_classified_and_one_line_says_so(world: World, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    result = run(world, folder, "--route", "0.60 * lora,ssf", "--out", out)

    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{out}: 3 images by 0.6*lora:2, ssf:1, 3 in ")
    assert result.stdout.endswith(" s, computed in fp32\n")
    assert "route read as: 0.6*lora, ssf" in result.stderr
    assert len(out.read_text().splitlines()) == 4


def test_an_image_that_failed_exits_1(world: World, folder: Path, tmp_path: Path) -> None:
    (folder / "bad.png").write_bytes(b"no image")
    result = run(world, folder, "--route", "lora", "--out", tmp_path / "out.csv")

    assert result.exit_code == 1
    assert result.stdout.endswith(", 1 failed\n")


def test_json_is_one_document_on_stdout(world: World, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    result = run(world, folder / "0.png", folder / "1.png", "--route", "lora", "--out", out, "--json")

    document = json.loads(result.stdout)
    assert document.pop("seconds") > 0
    assert document == {
        "out": str(out),
        "images": 2,
        "failed": 0,
        "resumed": 0,
        "precision": "fp32",
        "route": "lora:2",
        "adapters": {"shapes/lora:2": world.store.adapters.manifest("shapes", "lora", 2).digest},
        "backbone_digest": world.backbone.digest,
        "classes": ["circle", "square", "star"],
        "route_note": "",
    }
    assert result.stderr == ""


def test_every_option_reaches_the_run(world: World, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("picture\nphotos/1.png\n")
    out = tmp_path / "out.jsonl"
    out.touch()
    options = ("--column", "picture", "--top", 1, "--probabilities", "--extrapolate", "--overwrite")
    options += ("--batch-rows", 2, "--backbone", "tiny")
    result = run(world, tmp_path / "list.csv", "--route", "1.5*lora", "--out", out, *options)

    assert result.exit_code == 0, result.output
    row = json.loads(out.read_text())
    assert (row["path"], row["route"]) == ("photos/1.png", "1.5*lora:2")
    assert len(row["top"]) == 1
    assert len(row["probabilities"]) == 3


def test_what_cannot_be_is_raised_with_its_remedy(world: World, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert isinstance(run(world, folder, "--route", "lora,", "--out", out).exception, InvalidInput)
    assert isinstance(run(world, tmp_path / "gone", "--route", "lora", "--out", out).exception, NotFound)
    assert isinstance(run(world, folder, "--route", "lora", "--out", "out.txt").exception, InvalidInput)
    assert run(world, folder, "--route", "lora", "--out", out, "--batch-rows", 0).exit_code == 2
    assert run(world, "--route", "lora", "--out", out).exit_code == 2


def test_the_command_says_it_in_one_line_and_exits_2(
    world: World, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(folder), "--route", "lorra", "--task", "shapes", "--store", str(world.folder)]
    words += ["--device", "cpu", "--precision", "fp32", "--out", str(tmp_path / "out.csv")]

    assert command.run(words) == 2
    assert "did you mean lora?" in capsys.readouterr().err.splitlines()[-1]
