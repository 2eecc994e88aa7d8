"""Sources of images: what counts as one, what is left out, what is refused."""

import os
from pathlib import Path

import pytest

from petl_vit.errors import InvalidInput, NotFound
from serving.bulk.sources import listed
from tests.serving.world import encoded


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


def test_images_are_known_by_content_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    for name, content in {
        "1.jfif": encoded(0, "JPEG"),
        "2": encoded(1),
        "broken.heic": b"not an image, but named as one",
        "notes.txt": b"text",
        "@eaDir/1.jfif/THUMB.jpg": encoded(2),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = listed([tmp_path], column="path")
    assert [Path(source.path).name for source in found.images] == ["1.jfif", "2", "broken.heic"]
    assert str(found.left_out) == "clutter: 1 (@eaDir); not an image: 1 (notes.txt)"


def test_a_linked_folder_is_searched_and_a_circle_ends(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "1.png").write_bytes(encoded(0))
    (tmp_path / "photos").mkdir()
    os.symlink(tmp_path / "pool", tmp_path / "photos" / "more")
    os.symlink(tmp_path / "photos", tmp_path / "pool" / "back")
    found = listed([tmp_path / "photos"], column="path")
    assert [source.path for source in found.images] == [str(tmp_path / "photos" / "more" / "1.png")]
    assert found.left_out.counts == {"linked twice or in a circle": 1}


def test_a_name_that_is_not_utf_8_is_shown_escaped(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.png").write_bytes(encoded(0))
    for source in listed([tmp_path, *tmp_path.iterdir()], column="path").images:
        assert source.path == rf"{tmp_path}/caf\xe9.png"
        assert Path(source.file).read_bytes() == encoded(0)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_csv_may_begin_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "list.csv").write_text("path\na.png\n", encoding=encoding)
    (source,) = listed([tmp_path / "list.csv"], column="path").images
    assert source.path == "a.png"


def test_a_csv_may_be_of_another_system(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "Mu\u0308ll.png").write_bytes(encoded(0))
    (tmp_path / "list.csv").write_text("path\nmore\\M\u00fcll.png\nmore/gone.png\n", encoding="utf-8")
    found, gone = listed([tmp_path / "list.csv"], column="path").images
    assert (found.path, found.file) == ("more\\M\u00fcll.png", str(tmp_path / "more" / "Mu\u0308ll.png"))
    assert gone.file == str(tmp_path / "more" / "gone.png")


def test_a_folder_without_images_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InvalidInput, match=r"no image in .* \(left out: not an image: 1 \(notes.txt\)\)"):
        listed([tmp_path], column="path")
