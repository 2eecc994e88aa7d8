import io

import pytest
from rich.console import Console

from training.progress import Bars, duration


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


def test_a_long_stage_of_a_log_says_where_it_is_unless_something_else_was_said() -> None:
    out, times = io.StringIO(), [0.0]
    bars = Bars(Console(file=out), clock=lambda: times[-1])
    with bars.stage("reading", 100) as advance:
        for time in (10.0, 20.0, 30.0, 40.0):
            times.append(time)
            advance(10)
        bars.status("epoch 1/2: loss 0.5")
        for time in (50.0, 60.0, 70.0, 100.0):
            times.append(time)
            advance(15)
    assert out.getvalue().splitlines() == [
        "reading: 30 of 100, 1 min 10 s left",
        "epoch 1/2: loss 0.5",
        "reading: 85 of 100, 12 s left",
        "reading: 100 in 100.0 s",
    ]


def test_a_terminal_shows_the_status_beside_the_bar() -> None:
    out = io.StringIO()
    bars = Bars(Console(file=out, force_terminal=True, width=140))
    with bars.stage("training lora", 3) as advance:
        advance(3)
        bars.status("epoch 1/2: [loss] 0.5")
    assert "epoch 1/2: [loss] 0.5" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
