"""A sweep that is called again with other settings once it is finished."""

from dataclasses import replace

from model_store.store import Store
from tests.training.study.conftest import Shown, with_recipe
from training.study.session import Sweep
from training.study.sweep import run


def test_a_finished_sweep_called_with_other_settings_says_what_differs_and_how_to_go_back(
    store: Store, sweep: Sweep
) -> None:
    first = with_recipe(replace(sweep, methods=("bitfit",), trials=1), epochs=2)
    other, board = with_recipe(first, epochs=1), Shown()
    run(store, first, board)
    assert not [note for note in board.notes if "another one" in note]
    run(store, other, board)
    said = "sweep tiny was finished and was another one: epochs was 2 and is 1; bitfit tuned anew"
    assert said in board.notes

    (tuned,) = run(store, first, again := Shown()).methods
    assert "epochs was 1 and is 2; tuned so before, and nothing is trained" in "\n".join(again.notes)
    assert again.stages == []
    assert tuned.outcome is not None
    assert tuned.outcome.warning == (
        "digits/bitfit:1 is not `latest`, which is version 2; to make it so: "
        "corolla adapters alias digits/bitfit latest 1"
    )
    run(store, replace(other, trials=2), more := Shown())
    assert "epochs was 2 and is 1; bitfit tuned anew" in "\n".join(more.notes)
    run(store, other, same := Shown())
    assert "lr of bitfit was 0.0005, 0.001 and is 0.0005; tuned so before" in "\n".join(same.notes)
