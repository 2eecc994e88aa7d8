"""What people type first, and are led on from."""

from pathlib import Path

import pytest

from corolla import command


def test_train_without_a_method_asks_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(["train", "--data", "photos", "--task", "animals"]) == 2
    said = capsys.readouterr().err
    assert "name a method before --data" in said
    assert "corolla train lora --data photos --task animals" in said


def test_a_folder_to_classify_leads_to_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(["classify", str(tmp_path), "--route", "lora", "--server", "127.0.0.1:1"]) != 0
    assert f"corolla predict {tmp_path}" in capsys.readouterr().err


def test_adapters_of_a_task_that_does_not_exist_are_not_called_none_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(["adapters", "list", "--task", "animls", "--store", str(tmp_path / "s")]) != 0
    assert "no task 'animls'" in capsys.readouterr().err
