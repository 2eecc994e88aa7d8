import json

import pytest
from rich.table import Table

from benchmarks.estimate import Estimate
from benchmarks.report import emit, parser


def test_the_figures_are_one_json_line_after_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    emit("thing", [Table("a"), Table("b")], {"ratio": 1 / 3, "by": {"x": None}, "reason": "none"})

    *shown, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert shown
    assert (found["benchmark"], found["ratio"], found["by"], found["reason"]) == (
        "thing",
        0.3333,
        {"x": None},
        "none",
    )


def test_estimates_are_values_and_their_spreads_lie_beside_them(capsys: pytest.CaptureFixture[str]) -> None:
    ratio = Estimate(value=1 / 3, spread=0.01)

    emit("thing", [], {"ratio": ratio, "by": {"x": ratio, "count": 3}, "left_out": None})

    found = json.loads(capsys.readouterr().out)
    assert (found["ratio"], found["by"]["x"]) == (0.3333, 0.3333)
    assert found["spread"] == {"ratio": 0.01, "by": {"x": 0.01}}


def test_help_shows_the_benchmark_s_own_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser("What it is.\n\n    python -m benchmarks.thing --quick").parse_args(["--help"])

    assert "python -m benchmarks.thing --quick" in capsys.readouterr().out
