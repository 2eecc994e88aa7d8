"""Every target of fuzzing runs over its seeds and over what fuzzing kept, without atheris."""

import importlib
from pathlib import Path

import pytest

from fuzz.__main__ import CORPUS, TARGETS


@pytest.mark.filterwarnings("ignore")  # damaged tags of a TIFF
@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_kept_breaks_no_promise(name: str, request: pytest.FixtureRequest) -> None:
    target = importlib.import_module(f"fuzz.targets.{name}")
    seeds: list[bytes] = target.seeds()
    assert seeds
    request.addfinalizer(getattr(target, "close", lambda: None))
    for data in [b"", *seeds, *map(Path.read_bytes, sorted((CORPUS / name).glob("*")))]:
        target.check(data)
