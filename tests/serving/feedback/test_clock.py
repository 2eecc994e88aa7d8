"""A clock that jumps makes no label old."""

import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.serving.feedback.parts import (
    PREDICTION_IDS,
    feedback_over,
    metrics_of_route,
    predictions,
    rows,
    sent,
)
from tests.serving.world import World

YEAR_S = 365 * 86_400.0


@pytest.mark.parametrize("jump_s", [3 * YEAR_S, -50 * YEAR_S])
def test_a_clock_that_jumps_forgets_no_label(world: World, tmp_path: Path, jump_s: float) -> None:
    now, path = [time.time()], tmp_path / "labels.db"
    made = predictions(world, 3)
    feedback = feedback_over(
        world, metrics_of_route(), PREDICTION_IDS, path, keep_days=30, clock=lambda: now[0]
    )
    with closing(feedback):
        feedback.take([sent(each, "star") for each in made] * 400)
        now[0] += jump_s
        feedback.tend()

    assert len(rows(path)) == len(made)
