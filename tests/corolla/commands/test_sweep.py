"""`corolla sweep` as people type it."""

import json
import shlex

import pytest

from tests.corolla.shell import QUICK, Shell

DIGITS = ["--data", "digits", "--task", "digits", "--limit", "60"]


@pytest.fixture
def grid(empty: Shell) -> str:
    path = empty.folder / "grid.json"
    path.write_text(json.dumps({"bitfit": {"lr": [0.0005, 0.001]}, "selective": {"blocks": ["7"]}}))
    return str(path)


def test_a_sweep_says_which_settings_won_and_registers_them(shell: Shell, grid: str) -> None:
    command = ["sweep", "bitfit", *DIGITS, *QUICK, "--grid", grid, "--together", "4"]
    code, out, err = shell(*command)
    assert code == 0, err
    head, row, *rest = out.splitlines()
    assert head.split()[:3] == ["method", "adapter", "held-out"]
    assert row.split()[:2] == ["bitfit", "digits/bitfit:1"]
    assert "lr 0.0005" in row or "lr 0.001" in row
    manifest = shell.document("adapters", "show", "bitfit", "--json")
    assert rest[0].split() == ["base", "head", "digits/base", f"{manifest['metrics']['base_accuracy']:.3f}"]
    assert rest[1].startswith("2 trials shared 1 joint run: ")
    assert rest[-1] == "Next: corolla serve, then corolla classify IMAGE --task digits --route bitfit"
    assert "training the winner bitfit " in err
    assert "on all 60 training images, to register" in err
    assert "bitfit 1 (lr 0.0005): " in err
    assert "2 of 2 trials, best " in err
    assert (shell.folder / "runs" / "sweeps" / "digits" / "trials.db").exists()

    found = shell.document(*command, "--json")
    assert [one["adapter"] for one in found["methods"]] == ["digits/bitfit:1"]
    assert found["methods"][0]["reused"] is True
    assert [trial["state"] for trial in found["methods"][0]["trials"]] == ["complete", "complete"]
    assert len(shell("adapters", "list")[1].splitlines()) == 2


def test_a_method_without_a_winner_is_told_and_exits_with_1(shell: Shell, grid: str) -> None:
    code, out, err = shell("sweep", "--methods", "selective", *DIGITS, *QUICK, "--grid", grid)
    assert code == 1, err
    assert "selective 1 (blocks 7) failed: selective.blocks: there is no block 7" in out
    assert "selective has no adapter: no trial is complete" in out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([], "interrupted; the same command goes on where it stopped"),
        (["--restart"], "interrupted; the same command without --restart goes on where it stopped"),
    ],
)
def test_an_interrupted_sweep_says_how_it_goes_on(
    shell: Shell, grid: str, monkeypatch: pytest.MonkeyPatch, more: list[str], says: str
) -> None:
    def interrupted(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.study.sweep.session", interrupted)
    code, _, err = shell("sweep", "bitfit", *DIGITS, *QUICK, "--grid", grid, *more)
    assert code == 130
    assert says in err


MISTAKES: dict[str, str] = {
    "": "methods: no method is named",
    "lorra": "did you mean lora",
    "soup": "made of trained adapters",
    "lora --trials 0": "0 is not in the range x>=1",
    "lora --validation 0.5": "0.5 is not in the range",
    "lora --grid papr": "did you mean paper?",
    "lora --grid GRID": "grid grid.json has no trials of lora",
    "lora --name 'a b'": "is not a name",
    "lora --storage shared": "neither a URL nor a journal",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_told_before_anything_is_trained(shell: Shell, grid: str, words: str) -> None:
    given = [grid if word == "GRID" else word for word in shlex.split(words)]
    assert MISTAKES[words] in shell.refused("sweep", *given, *DIGITS)
    assert not (shell.folder / "store" / "adapters").exists()
