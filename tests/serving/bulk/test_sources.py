"""Sources of images: what is refused."""

from pathlib import Path

import pytest

from petl_vit.errors import InvalidInput, NotFound
from serving.bulk.sources import listed


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("", "column", "header line"),
        ("image,label\na.png,b\n", "column", "name one of image, label"),
        ("path\n", "sources", "no image in"),
        (b"path\n\xff\xfe\n", "sources", "UTF-8"),
        ('path\n"' + "x" * 200_000, "sources", "not a CSV file"),
    ],
)
def test_a_csv_that_is_none_is_refused(tmp_path: Path, text: str | bytes, field: str, says: str) -> None:
    (tmp_path / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidInput, match=says) as caught:
        listed([tmp_path / "list.csv"], column="path")
    assert caught.value.field == field


def test_nothing_to_classify_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no image in"):
        listed([tmp_path], column="path")
    with pytest.raises(NotFound, match="does not exist"):
        listed([tmp_path / "gone.png"], column="path")
