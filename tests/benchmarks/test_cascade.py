import json
from pathlib import Path

import pytest

from benchmarks import cascade, crossfit
from training.data.dataset import subset
from training.data.records import Dataset
from training.data.sources import load_dataset

pytestmark = pytest.mark.benchmarks


def few(source: str) -> Dataset:
    return subset(load_dataset(source), 60, 0)


def test_it_ends_with_what_a_cascade_costs_and_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cascade, "load_dataset", few)
    monkeypatch.setattr(cascade, "LOSS", 0.5)
    monkeypatch.setattr(cascade, "SERVED", 10)
    monkeypatch.setattr(crossfit, "METHODS", ("lora", "ssf", "bitfit"))
    tiny = ["--backbone", "random:test_vit", "--image-size", "32", "--epochs", "1"]

    cascade.main([*tiny, "--folds", "2", "--limit", "20", "--rounds", "1", "--folder", str(tmp_path)])

    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["benchmark"], found["images"], found["members"]) == ("cascade", 60, 3)
    assert 1 / 3 <= found["cost_over_ensemble"] < 1
    assert found["accuracy_loss_low"] <= found["accuracy_loss"] <= found["accuracy_loss_high"]
    assert found["shifted_cost"].keys() == found["shifted_loss"].keys() == {"noise:3", "mnist"}
    assert found["cpu_over_ensemble"] > 0
