import resource
from pathlib import Path

import pytest
import torch

from petl_vit.errors import InvalidInput
from training.run.checkpoint import Checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    found = Checkpoint(path=tmp_path / "runs" / "abc.pt")
    found.prepare()
    return found


def test_a_state_comes_back_as_it_was_saved_and_the_last_one_counts(checkpoint: Checkpoint) -> None:
    assert checkpoint.load() is None
    checkpoint.save({"epoch": 1, "tensors": {"a": torch.zeros(2)}, "losses": [0.5]})
    checkpoint.save({"epoch": 2, "tensors": {"a": torch.ones(2)}, "losses": [0.5, 0.25]})
    state = checkpoint.load()
    assert state is not None
    assert (state["epoch"], state["losses"]) == (2, [0.5, 0.25])
    assert torch.equal(state["tensors"]["a"], torch.ones(2))
    assert list(checkpoint.path.parent.iterdir()) == [checkpoint.path]


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_file_counts_as_none(checkpoint: Checkpoint, keep: int) -> None:
    checkpoint.save({"epoch": 1, "tensors": {"a": torch.zeros(100)}})
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:keep])
    assert checkpoint.load() is None


@pytest.mark.parametrize("garbage", [b"not a checkpoint", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(100)])
def test_a_foreign_file_counts_as_none(checkpoint: Checkpoint, garbage: bytes) -> None:
    checkpoint.path.write_bytes(garbage)
    assert checkpoint.load() is None


def test_code_in_a_file_is_not_run(checkpoint: Checkpoint) -> None:
    torch.save({"epoch": Path("x")}, checkpoint.path)
    assert checkpoint.load() is None


def test_a_save_that_fails_leaves_the_last_state(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save({"epoch": 1})

    def full(state: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InvalidInput, match=r"runs: .*cannot be written \(No space left on device\)"):
        checkpoint.save({"epoch": 2})
    assert checkpoint.load() == {"epoch": 1}


def test_a_file_that_pytorch_cannot_write_whole_is_told_and_leaves_the_last_state(
    checkpoint: Checkpoint,
) -> None:
    checkpoint.save({"epoch": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(InvalidInput, match=r"runs: .*not all of it could be written: is the disk full"):
            checkpoint.save({"epoch": 2, "tensors": {"a": torch.zeros(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.load() == {"epoch": 1}


def test_removing_takes_the_halves_of_a_killed_save_along(checkpoint: Checkpoint) -> None:
    checkpoint.save({"epoch": 1})
    (checkpoint.path.parent / ".abc.pt.x1y2").write_bytes(b"half")
    other = Checkpoint(path=checkpoint.path.with_name("abd.pt"))
    other.save({"epoch": 5})
    checkpoint.remove()
    checkpoint.remove()
    assert list(checkpoint.path.parent.iterdir()) == [other.path]


def test_a_folder_that_cannot_be_written_is_known_before_the_first_epoch(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidInput, match=r"runs: .*cannot be written"):
        Checkpoint(path=tmp_path / "file" / "abc.pt").prepare()
