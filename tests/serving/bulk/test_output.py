"""Files of rows: what is refused, and what a failed write leaves."""

import sys
from pathlib import Path
from typing import Any

import pytest

from petl_vit.errors import Conflict, InvalidInput
from serving.bulk.output import Output, Part


def test_two_runs_do_not_write_one_output(tmp_path: Path) -> None:
    header = {"images": 3}
    with Part(tmp_path / "out.csv", header, group=2, fresh=False) as part:
        part.append([{"path": "a"}])
        with pytest.raises(Conflict, match="another run is writing"):
            Part(tmp_path / "out.csv", header, group=2, fresh=True)
        assert list(part) == [{"path": "a"}]


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidInput, match=r"pip install 'corolla\[parquet\]'"):
        Output(tmp_path / "out.parquet", overwrite=False)


def test_a_write_that_fails_leaves_no_output(tmp_path: Path) -> None:
    def rows() -> Any:
        yield {"path": "a"}
        raise OSError(28, "No space left on device")

    output = Output(tmp_path / "out.jsonl", overwrite=False)
    with pytest.raises(InvalidInput, match="No space left"):
        output.write(rows(), ())
    assert list(tmp_path.iterdir()) == []
