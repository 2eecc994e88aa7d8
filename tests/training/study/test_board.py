"""What people see of a sweep."""

import io
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from training.study.board import Board
from training.study.trials import State, Trial

WAITING = [Trial(method="lora", place=i, point={"rank": 4 << i}) for i in range(4)]


def done(trial: Trial, value: float) -> Trial:
    recipe = {"learning_rate": 0.001, "weight_decay": 0.0}
    return replace(trial, state=State.COMPLETE, value=value, values={9: value}, seconds=30, recipe=recipe)


def shown(board: Board, *several: Sequence[Trial]) -> None:
    for trials in several:
        board.show({"lora": trials})


FIRST = [done(WAITING[0], 0.875), *WAITING[1:]]
SECOND = [FIRST[0], replace(WAITING[1], state=State.FAILED, reason="collapsed: 0.1"), *WAITING[2:]]


def clock() -> float:
    clock.now += 10.0  # type: ignore[attr-defined]
    return clock.now  # type: ignore[attr-defined, no-any-return]


def test_a_log_has_a_line_for_every_trial_that_ends() -> None:
    out = io.StringIO()
    clock.now = 0.0  # type: ignore[attr-defined]
    shown(Board(9, Console(file=out, width=200), clock=clock), WAITING, FIRST, FIRST, SECOND)
    first, second = out.getvalue().splitlines()
    assert first.startswith("lora 1 (rank 4): 0.875 in 30 s; 1 of 4 trials, best 0.875 (lora 1: rank 4), ")
    assert first.endswith(" left for trials")
    assert second.startswith("lora 2 (rank 8): failed, collapsed: 0.1 in 0 s; 2 of 4 trials, best 0.875")


def test_nothing_is_said_to_be_left_once_all_trials_are_over() -> None:
    out = io.StringIO()
    clock.now = 0.0  # type: ignore[attr-defined]
    over = [done(trial, 0.5) for trial in WAITING]
    shown(Board(9, Console(file=out, width=200), clock=clock), WAITING, over)
    assert "4 of 4 trials, best 0.500" in out.getvalue()
    assert "left" not in out.getvalue()


def test_a_terminal_has_one_table_that_stays() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, _environ={"TERM": "xterm"})
    with Board(9, console).closing() as board:
        shown(board, WAITING, FIRST, SECOND)
        board.note("a note")
    said = out.getvalue()
    assert "2/4" in said
    assert "0.875" in said
    assert "a note" in said
