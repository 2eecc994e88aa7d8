import io

import pytest
from rich.console import Console

from training.progress import Bars


def test_a_log_gets_one_line_for_each_stage_and_no_control_characters() -> None:
    out = io.StringIO()
    bars = Bars(Console(file=out, width=20))
    with bars.stage("training [lora] on a long name", 100) as advance:
        for _ in range(100):
            advance(1)
    bars.note("resuming after epoch 3 of 5, which is longer than twenty letters")
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("training [lora] on a long name: 100 in ")
    assert out.getvalue().replace("\n", "").isprintable()


def test_a_terminal_gets_a_bar_that_fills() -> None:
    out = io.StringIO()
    bars = Bars(Console(file=out, force_terminal=True, width=100))
    with bars.stage("training [lora]", 3) as advance:
        advance(3)
    assert "training [lora]" in out.getvalue()
    assert "3/3" in out.getvalue()


def test_a_stage_that_fails_says_nothing_of_its_end() -> None:
    out = io.StringIO()
    with pytest.raises(KeyError), Bars(Console(file=out)).stage("reading", 3):
        raise KeyError
    assert out.getvalue() == ""
