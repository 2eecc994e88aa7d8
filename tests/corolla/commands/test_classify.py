import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from corolla import command
from corolla.commands.classify import classify
from corolla.commands.feedback import feedback
from petl_vit.errors import InvalidInput, NotFound
from serving.client.messages import RequestFailed
from tests.serving.world import Running, encoded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images: two that are fine, and one that is none."""
    for name, data in (("a.png", encoded(1)), ("b.jpg", encoded(2, "JPEG")), ("bad.png", b"not an image")):
        (tmp_path / name).write_bytes(data)
    return tmp_path


def run(command: object, running: Running, *arguments: object) -> Result:
    everything = [*map(str, arguments), "--server", running.address]
    return CliRunner().invoke(command, everything)  # type: ignore[arg-type]


def classified(running: Running, *arguments: object) -> Result:
    return run(classify, running, *arguments, "--task", "shapes")


def test_images_are_classified_and_the_route_is_shown_as_it_was_read(running: Running, folder: Path) -> None:
    result = classified(running, folder / "a.png", folder / "b.jpg", "--route", "0.60 * lora,ssf")

    assert result.exit_code == 0, result.output
    assert "route read as: 0.6*lora, ssf" in result.stderr
    assert "answered by 0.6*lora:2, ssf:1" in result.stdout


def test_members_and_ids_are_shown_when_they_are_asked_for(running: Running, folder: Path) -> None:
    plain = classified(running, folder / "a.png", "--route", "lora, ssf")
    full = classified(running, folder / "a.png", "--route", "lora, ssf", "--members", "--ids", "--top", "3")

    assert "ssf:1 " not in plain.stdout
    assert "ssf:1 " in full.stdout
    (line,) = [line for line in full.stdout.splitlines() if line.startswith(str(folder / "a.png") + " ")]
    prediction_id = line.split()[-1]
    labelled = run(feedback, running, prediction_id, "star")
    assert labelled.exit_code == 0
    assert labelled.stdout.startswith("matched: ")


def test_one_bad_image_leaves_the_others_answered_and_exits_1(running: Running, folder: Path) -> None:
    result = classified(running, folder / "a.png", folder / "bad.png", "--route", "lora", "--json")

    assert result.exit_code == 1
    fine, bad = json.loads(result.stdout)["results"]
    assert fine["id"] == str(folder / "a.png")
    assert len(fine["top"]) == 1
    assert bad["error"]["code"] == 3
    assert "not an image" in bad["error"]["message"]


def test_a_bad_image_is_shown_in_the_table(running: Running, folder: Path) -> None:
    result = classified(running, folder / "bad.png", "--route", "lora")

    assert result.exit_code == 1
    assert "images[0]" in result.stdout


def test_brackets_in_a_file_name_are_no_markup(
    running: Running, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    Path("[red]a[", "b]").parent.mkdir()
    Path("[bold]x.png").write_bytes(encoded(1))
    Path("[red]a[", "b].png").write_bytes(b"")

    result = classified(running, "[bold]x.png", "[red]a[/b].png", "--route", "lora")

    assert result.exit_code == 1, result.exception
    assert "[bold]x.png" in result.stdout
    assert "[red]a[/b].png" in result.stdout


def test_a_name_that_is_not_utf_8_is_escaped(running: Running, folder: Path) -> None:
    (folder / "caf\udce9.png").write_bytes(encoded(1))
    result = classified(running, folder / "a.png", folder / "caf\udce9.png", "--route", "lora", "--json")

    assert result.exit_code == 0, result.exception
    names = [one["id"] for one in json.loads(result.stdout)["results"]]
    assert names == [str(folder / "a.png"), rf"{folder}/caf\xe9.png"]


def test_json_is_one_document_with_everything(running: Running, folder: Path) -> None:
    result = classified(
        running,
        folder / "a.png",
        "--route",
        "best",
        "--members",
        "--domain",
        "street",
        "--top",
        "2",
        "--json",
    )

    document = json.loads(result.stdout)
    assert document["route"] == "lora:2, ssf:1, 0.5*bitfit:1"
    assert [member["member"] for member in document["results"][0]["members"]] == [
        "lora:2",
        "ssf:1",
        "0.5*bitfit:1",
    ]
    assert len(document["results"][0]["top"]) == 2


def test_what_the_server_refuses_is_raised_with_its_remedy(running: Running, folder: Path) -> None:
    result = classified(running, folder / "a.png", "--route", "lorra")

    assert isinstance(result.exception, RequestFailed)
    assert "did you mean lora?" in str(result.exception)


def test_alpha_beyond_1_needs_its_flag(running: Running, folder: Path) -> None:
    assert isinstance(classified(running, folder / "a.png", "--route", "2*lora").exception, RequestFailed)
    assert classified(running, folder / "a.png", "--route", "2*lora", "--extrapolate").exit_code == 0


def test_a_route_that_cannot_be_read_is_refused_before_it_is_sent(running: Running, folder: Path) -> None:
    result = classified(running, folder / "a.png", "--route", "lora,")

    assert isinstance(result.exception, InvalidInput)


@pytest.mark.parametrize(("name", "error"), [("gone.png", NotFound), (".", InvalidInput)])
def test_a_file_that_cannot_be_read_is_named(
    running: Running, folder: Path, name: str, error: type[Exception]
) -> None:
    result = classified(running, folder / name, "--route", "lora")

    assert isinstance(result.exception, error)
    assert str(folder) in str(result.exception)


def test_the_command_says_it_in_one_line_and_exits_2(
    running: Running, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["classify", str(folder / "a.png"), "--route", "lorra", "--task", "shapes"]

    assert command.run([*words, "--server", running.address]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("corolla: ")
    assert "did you mean lora?" in said[-1]
