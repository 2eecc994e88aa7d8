import os
from pathlib import Path
from typing import NoReturn

import pytest

from image_files.folder import Below, images_below
from image_files.left_out import LeftOut

JPEG = b"\xff\xd8\xff\xe0"


def refuse(error: OSError) -> NoReturn:
    raise error


def below(root: Path) -> tuple[Below, LeftOut]:
    left_out = LeftOut()
    return images_below(str(root), left_out, refuse), left_out


def files(root: Path, *paths: str, content: bytes = JPEG) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def test_images_are_known_by_content_where_the_name_says_nothing(tmp_path: Path) -> None:
    files(tmp_path, "b/1", "b/2.dat", "a.jpg", "b/c/4.x")
    files(tmp_path, "notes.txt", "b/labels.csv", "list", content=b"text")
    files(tmp_path, "broken.png", content=b"not an image, but named as one")
    found, left_out = below(tmp_path)
    assert found.images == ["a.jpg", "broken.png", "b/1", "b/2.dat", "b/c/4.x"]
    assert found.folders == ["b", "b/c"]
    assert left_out.counts == {"not an image": 3}
    assert str(left_out) == "not an image: 3 (list, notes.txt, b/labels.csv)"


def test_clutter_is_named_and_left_out_with_all_that_is_in_it(tmp_path: Path) -> None:
    files(tmp_path, "a/1.jpg", "a/@eaDir/1.jpg/THUMB.jpg", "@eaDir/x.jpg", "a/._1.jpg", "a/.DS_Store")
    (tmp_path / "lost+found").mkdir()
    found, left_out = below(tmp_path)
    assert (found.folders, found.images) == (["a"], ["a/1.jpg"])
    assert str(left_out) == "clutter: 5 (@eaDir, lost+found, .DS_Store, ._1.jpg)"


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    files(tmp_path, "pool/x/1.jpg", "pool/x/deep/2.jpg", "set/a/0.jpg")
    os.symlink(tmp_path / "pool" / "x", tmp_path / "set" / "a" / "more")
    found, left_out = below(tmp_path / "set")
    assert found.images == ["a/0.jpg", "a/more/1.jpg", "a/more/deep/2.jpg"]
    assert not left_out


def test_a_circle_of_links_ends_and_no_folder_is_read_twice(tmp_path: Path) -> None:
    files(tmp_path, "set/z/1.jpg", "set/a/2.jpg")
    os.symlink(tmp_path / "set", tmp_path / "set" / "a" / "up")
    os.symlink(tmp_path, tmp_path / "set" / "a" / "far-up")
    os.symlink(tmp_path / "set" / "z", tmp_path / "set" / "b")
    found, left_out = below(tmp_path / "set")
    assert found.images == ["a/2.jpg", "z/1.jpg"]
    assert [folder for folder in found.folders if "/" not in folder] == ["a", "b", "z"]
    assert left_out.counts == {"linked twice or in a circle": 3}


def test_what_cannot_be_read_counts_as_an_image_and_what_is_not_a_file_does_not(tmp_path: Path) -> None:
    os.symlink(tmp_path / "gone", tmp_path / "broken-link")
    os.mkfifo(tmp_path / "pipe")
    found, left_out = below(tmp_path)
    assert found.images == ["broken-link"]
    assert left_out.counts == {"not an image": 1}


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        below(tmp_path / "nowhere")


def test_some_names_are_told_and_all_are_counted() -> None:
    left_out = LeftOut()
    for i in range(9):
        left_out.add("clutter", f"{i}~")
    assert str(left_out) == "clutter: 9 (0~, 1~, 2~, 3~, 4~, ...)"
    assert left_out.counts == {"clutter": 9}
