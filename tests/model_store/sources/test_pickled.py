"""Pickled files: tensors are read, and no code of theirs is ever run."""

import argparse
import os
import pathlib
from collections import defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from model_store.sources import pickled
from petl_vit.errors import InvalidInput


class Touching:
    """Unpickled by Python's own reader, it would make a file."""

    def __init__(self, path: Path, how: object) -> None:
        self.path, self.how = path, how

    def __reduce__(self) -> tuple[object, ...]:
        return (self.how, (self.path if self.how is pathlib.Path.touch else f"touch {self.path}",))


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_beside_tensors_become_placeholders_and_are_named(tmp_path: Path, zipped: bool) -> None:
    args = argparse.Namespace(lr=0.1, out=Path("x"), best=np.float64(0.5))
    file = tmp_path / "last.pth.tar"
    torch.save(
        {"state_dict": {"a": torch.ones(2)}, "args": args, "epoch": 3},
        file,
        _use_new_zipfile_serialization=zipped,
    )
    document, names = pickled.read(file)
    assert isinstance(document, dict)
    assert torch.equal(document["state_dict"]["a"], torch.ones(2))
    assert document["epoch"] == 3
    assert isinstance(document["args"], pickled.Placeholder)
    assert {"argparse.Namespace", "pathlib.PosixPath"} <= set(names)
    assert len(set(names)) == len(names)


class Settings(dict[str, object]):
    """As Lightning keeps its hyper-parameters."""


class Steps(list[int]):
    """A list of its own class."""


@pytest.mark.parametrize(
    "beside",
    [
        Settings(lr=0.1),
        Steps([1, 2]),
        defaultdict(list, {1: [2]}),
        deque([1]),
        {"deep": [Settings(a=Steps([1]))]},
        np.random.RandomState(0),
        nn.Linear(1, 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_tensors_are_read_whatever_lies_beside_them(tmp_path: Path, beside: object) -> None:
    torch.save({"beside": beside, "state_dict": {"a": torch.ones(2)}}, tmp_path / "x.ckpt")
    document, _ = pickled.read(tmp_path / "x.ckpt")
    assert isinstance(document, dict)
    assert torch.equal(document["state_dict"]["a"], torch.ones(2))


@pytest.mark.parametrize(
    ("how", "said"), [(os.system, "would call posix.system"), (pathlib.Path.touch, "builtins.getattr")]
)
def test_a_file_that_calls_something_is_refused_without_calling_it(
    tmp_path: Path, how: object, said: str
) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "x": Touching(tmp_path / "ran", how)}, tmp_path / "x.pth")
    with pytest.raises(InvalidInput, match=said) as error:
        pickled.read(tmp_path / "x.pth")
    assert "never run" in str(error.value)
    assert "\x1b" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_whole_model_says_how_its_state_dict_is_saved(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "m.pth")
    _, names = pickled.read(tmp_path / "m.pth")
    assert names == ("torch.nn.modules.linear.Linear",)
    assert "weights_only=False).state_dict()" in str(pickled.whole_model(tmp_path / "m.pth", names))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_archive_is_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "s.pt")
    with pytest.raises(InvalidInput, match=r"TorchScript.*torch\.jit\.load"):
        pickled.read(tmp_path / "s.pt")


def test_what_is_not_such_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"nothing of the kind")
    with pytest.raises(InvalidInput, match=r"x\.pth"):
        pickled.read(tmp_path / "x.pth")
