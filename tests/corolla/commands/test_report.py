"""`corolla report`, from files that people have to the page."""

import re
from pathlib import Path

import pytest

from tests.corolla.shell import Shell
from tests.training.study.report.small import small
from training.measure.document import save_evaluation

HERE = {"photo": {"base": 0.80, "lora:1": 0.92, "bitfit:1": 0.91}}
DIGITS = ["--data", "digits", "--limit", "40", "--device", "cpu", "--precision", "fp32"]


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is tested with the page (tests/training/study/report); here it would only take time."""
    svg = '<svg role="img" aria-label="a figure"></svg>'
    monkeypatch.setattr("training.study.report.drawing._svg", lambda draw, width, key, title, alt: svg)


@pytest.fixture
def evaluated(empty: Shell) -> Path:
    path = empty.folder / "eval.json"
    save_evaluation(small(HERE), path)
    return path


def test_an_evaluation_becomes_a_page_and_its_numbers(empty: Shell, evaluated: Path) -> None:
    out, csv = empty.folder / "page.html", empty.folder / "numbers"
    found = empty.document("report", "--eval", str(evaluated), "--out", str(out), "--csv", str(csv), "--json")
    assert found["bytes"] == out.stat().st_size
    assert "<h1>Adapters of photos</h1>" in out.read_text()
    assert "accuracy-by-size.csv" in {Path(path).name for path in found["csv"]}
    first, row, *_ = (csv / "everything.csv").read_text().splitlines()
    assert first.startswith("set,label,route,kind,method")
    assert row.startswith("photo,base,base,base,linear")
    assert "No images were given" in found["absent"]["The most disputed images"]
    # The store has none of its adapters, which the page says.
    assert "Not in this store any more" in out.read_text()


def test_what_is_left_out_is_said_with_the_reason(empty: Shell, evaluated: Path) -> None:
    code, out, err = empty("report", "--eval", str(evaluated), "--out", str(empty.folder / "page.html"))
    assert (code, err) == (0, "")
    assert "left out: What ensembles gain: No ensemble was measured." in out
    assert re.search(r"page.html is written \([\d.]+ KiB\); open it in a browser", out.splitlines()[-1])


def test_a_page_is_replaced_only_when_that_is_asked_for(empty: Shell, evaluated: Path) -> None:
    out = empty.folder / "page.html"
    out.write_text("mine")
    command = ("report", "--eval", str(evaluated), "--out", str(out))
    assert "--out: " in empty.refused(*command)
    assert out.read_text() == "mine"
    assert empty(*command, "--overwrite")[0] == 0


def test_an_evaluation_of_another_task_is_refused(empty: Shell, evaluated: Path) -> None:
    command = ("report", "--task", "plants", "--eval", str(evaluated), "--out", "page.html")
    said = empty.refused(*command)
    assert "--eval: " in said
    assert "is of the task photos, not of plants; report --task photos, or evaluate plants" in said


def test_a_shift_beside_an_evaluation_is_refused(empty: Shell, evaluated: Path) -> None:
    said = empty.refused("report", "--eval", str(evaluated), "--shift", "noise:3", "--out", "page.html")
    assert "--shift: an evaluation has the shifts that it was measured under; leave it out" in said


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ('{"format_version": 1}', "field"),
        ('{"format_version": 99}', "format version 99"),
        (None, "does not exist"),
    ],
)
def test_a_file_that_is_not_an_evaluation_is_refused(empty: Shell, text: str | None, problem: str) -> None:
    path = empty.folder / "broken.json"
    if text is not None:
        path.write_text(text)
    said = empty.refused("report", "--eval", str(path), "--out", "page.html")
    assert said.startswith("corolla: --eval: ")
    assert problem in said


def test_a_task_without_adapters_is_refused_with_the_remedy(empty: Shell) -> None:
    said = empty.refused("report", "--task", "plants", "--data", "digits", "--out", "page.html")
    assert "--task: the task plants has no adapter to report; train one with `corolla train lora" in said


def test_without_an_evaluation_and_without_images_there_is_nothing_to_report(trained: Shell) -> None:
    said = trained.refused("report", "--task", "digits", "--out", "page.html")
    assert "--eval: there is nothing to report from; name a file" in said


def test_images_that_were_not_evaluated_give_a_page_without_thumbnails(empty: Shell, evaluated: Path) -> None:
    out = empty.folder / "page.html"
    code, said, _ = empty("report", "--eval", str(evaluated), "--data", "nowhere/", "--out", str(out))
    assert code == 0
    assert "left out: The most disputed images: They cannot be shown" in said
    assert out.exists()


def disputed(page: str) -> int:
    return page.count("data:image/jpeg;base64,")


def test_images_are_measured_where_there_is_no_evaluation_and_shown_with_their_votes(trained: Shell) -> None:
    assert trained.train("bitfit")[0] == 0
    trained.folder.joinpath("logits").mkdir()
    places = ["--logits", str(trained.folder / "logits")]
    out = trained.folder / "page.html"
    command = [
        "report",
        "--task",
        "digits",
        *DIGITS,
        "--shift",
        "noise:3",
        *places,
        "--out",
        str(out),
        "--json",
    ]
    found = trained.document(*command)
    assert {"size", "ensembles", "alphas", "agreement"} <= set(found["sections"])
    assert ("disputed" in found["sections"]) == (disputed(out.read_text()) > 0)

    # Of the same images an evaluation gives the same page, with the answers that were stored.
    evaluate = [
        "evaluate",
        "--task",
        "digits",
        *DIGITS,
        "--shift",
        "noise:3",
        "--alphas",
        "0,0.25,0.5,0.75,1",
    ]
    path = trained.folder / "eval.json"
    assert trained(*evaluate, *places, "--out", str(path))[0] == 0
    again = trained.folder / "again.html"
    trained.document("report", "--eval", str(path), *DIGITS, *places, "--out", str(again), "--json")
    assert disputed(again.read_text()) == disputed(out.read_text())
