"""docs/structure.md names what is there."""

import re
from pathlib import Path

import pytest

from docs import folders

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "structure.md").read_text()
PATHS = sorted(
    set(
        re.findall(r"`((?:corolla|deploy|serving|training|model_store|petl_vit|protos|tests)/[\w./]*)`", PAGE)
    )
)


def test_every_path_on_the_page_is_there() -> None:
    assert len(PATHS) > 30
    assert [path for path in PATHS if not (ROOT / path).exists()] == []


def test_a_folder_without_a_sentence_is_found(tmp_path: Path) -> None:
    (tmp_path / "serving" / "new").mkdir(parents=True)
    (tmp_path / "serving" / "new" / "part.py").touch()
    page = f"{folders.BEGIN}\n{folders.END}\n"

    with pytest.raises(AssertionError, match="needs an __init__"):
        folders.with_rows(page, tmp_path)

    (tmp_path / "serving" / "new" / "__init__.py").write_text('"""New things."""')
    assert "| `serving/new/` | New things. | `part` |" in folders.with_rows(page, tmp_path)


def test_a_page_without_a_place_for_the_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        folders.with_rows("# Structure", tmp_path)
