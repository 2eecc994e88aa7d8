"""The storage of a sweep's trials, and what is told of one that cannot be read."""

from pathlib import Path

import optuna
import pytest
from sqlalchemy import event

from petl_vit.errors import InvalidInput
from training.study.storage import closed, in_use, opened


@pytest.mark.parametrize("url", ["shared", "nosql://host/x", "sqlite:////nowhere/at/all.db"])
def test_a_storage_that_cannot_be_opened_is_told(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidInput, match="storage"):
        opened(url, tmp_path)


def test_a_damaged_file_of_a_sweep_is_named_with_the_remedy_and_restart_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "trials.db"
    path.write_bytes(b"no database at all, but long enough to be read as one" * 20)
    with pytest.raises(InvalidInput) as caught:
        opened(None, tmp_path)
    assert str(path.resolve()) in caught.value.problem
    assert "file is not a database" in caught.value.problem
    assert "--restart" in (caught.value.remedy or "")
    closed(opened(None, tmp_path, restart=True))
    closed(opened(None, tmp_path))


def test_restart_leaves_a_damaged_storage_that_was_named_alone(tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    path.write_bytes(before := b"no database at all, but long enough to be read as one" * 20)
    with pytest.raises(InvalidInput, match="is not a database"):
        opened(f"sqlite:///{path}", tmp_path, restart=True)
    assert path.read_bytes() == before


def fill(storage: optuna.storages.BaseStorage) -> None:
    """Writes until the file is as long as it may be, as on a full disk."""
    assert isinstance(storage, optuna.storages.RDBStorage)
    event.listen(
        storage.engine, "connect", lambda of, record: of.execute("PRAGMA max_page_count = 80").close()
    )
    storage.engine.dispose()
    study = optuna.create_study(storage=storage, study_name="full", load_if_exists=True)
    for number in range(1000):
        study.set_user_attr(f"attribute {number}", "x" * 1000)


@pytest.mark.parametrize("named", [False, True])
def test_a_storage_without_space_is_told_with_the_remedy_and_keeps_what_it_has(
    tmp_path: Path, named: bool
) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}" if named else None
    with (
        pytest.raises(InvalidInput, match="database or disk is full") as caught,
        in_use(url, tmp_path) as one,
    ):
        fill(one)
    assert caught.value.field == ("storage" if named else "runs")
    assert (str(tmp_path / "trials.db") in caught.value.problem) is not named
    assert "the same command then goes on" in (caught.value.remedy or "")
    with in_use(url, tmp_path) as again:
        assert "attribute 0" in optuna.load_study(storage=again, study_name="full").user_attrs
