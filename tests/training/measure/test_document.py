"""What is refused in the place of an evaluation."""

import json
from pathlib import Path

import pytest

from petl_vit.errors import InvalidInput, NotFound, Unsupported
from training.measure.document import load_evaluation


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(
        NotFound, match=r"evaluation: .*eval\.json does not exist; make it with `corolla evaluate"
    ):
        load_evaluation(tmp_path / "eval.json")
    with pytest.raises(InvalidInput, match=r"evaluation: .* cannot be read"):
        load_evaluation(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04", "is not an evaluation: not JSON"),
        (b"[]", "is not an evaluation: field 'format_version'"),
        (json.dumps({"format_version": 1, "task": "digits"}).encode(), "is not an evaluation: field '"),
    ],
)
def test_another_file_is_refused_by_its_name_and_field(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=f"evaluation: .*other.json {message}") as error:
        load_evaluation(path)
    assert "make it with `corolla evaluate" in str(error.value)


def test_a_later_format_asks_for_a_later_corolla(tmp_path: Path) -> None:
    path = tmp_path / "later.json"
    path.write_text('{"format_version": 2}')
    with pytest.raises(Unsupported, match="format version 2, this corolla reads version 1; install"):
        load_evaluation(path)
