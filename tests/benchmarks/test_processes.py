"""Processes of benchmarks find this checkout and the packages that this process has."""

import sys
from pathlib import Path

import pytest

from benchmarks.processes import ROOT, running

pytestmark = pytest.mark.benchmarks
SAID = "import os, sys; print(sys.path, 'COROLLA_STORE' in os.environ)"


@pytest.mark.parametrize("inherited", ["", "/packages/one:/packages/two"])
def test_packages_that_come_by_the_path_stay_behind_this_checkout(
    inherited: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", inherited)
    monkeypatch.setenv("COROLLA_STORE", "/elsewhere")

    with running([sys.executable, "-c", SAID], folder=tmp_path, name="said") as tree:
        tree.process.wait(timeout=60)

    found = (tmp_path / "said.log").read_text()
    expected = [str(ROOT), *filter(None, inherited.split(":"))]
    assert found.startswith(str(["", *expected])[:-1])
    assert found.split()[-1] == "False"
