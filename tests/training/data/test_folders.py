import os
from pathlib import Path

import pytest
import torch

from tests.training.data.files import FLOWERS, folder, image, refusal, values, zipped
from tests.training.run.notes import Notes
from training.data.reading import Reading
from training.data.sources import load_dataset


def test_a_folder_has_a_class_for_each_sub_folder(tmp_path: Path) -> None:
    dataset = load_dataset(folder(tmp_path / "flowers", FLOWERS))
    assert dataset.classes == ("rose", "tulip")
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.labels.dtype == torch.int64
    assert values(dataset) == [10, 20, 30, 40]
    assert len(dataset) == len(dataset.images) == 4


def test_a_folder_reads_all_formats_whatever_their_names_end_in(tmp_path: Path) -> None:
    files: dict[str, int | bytes] = {
        "a/1.JPG": image(1, "JPEG"),
        "a/2.jfif": image(2, "JPEG"),
        "a/3": image(3, "GIF"),
        "a/4.tif": image(4, "TIFF"),
        "b/3.png": image(5),
        "b/4.webp": image(6, "WEBP"),
        "b/5.dat": image(7, "BMP"),
        "b/6.avif": image(8, "AVIF"),
    }
    assert values(load_dataset(folder(tmp_path, files))) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_what_is_left_out_is_counted_by_reason_and_told(tmp_path: Path) -> None:
    clutter: dict[str, int | bytes] = {
        "a/notes.txt": b"x",
        "b/.hidden.png": b"x",
        ".git/x.png": b"x",
        "__MACOSX/b/3.png": b"x",
        "b/@eaDir/1.png/THUMB.jpg": 1,
        "top.png": 1,
    }
    notes = Notes()
    for source in (
        folder(tmp_path / "set", {"a/1.png": 1, "b/1.png": 2} | clutter),
        zipped(tmp_path / "set.zip", {"a/1.png": 1, "b/1.png": 2} | clutter),
    ):
        dataset = load_dataset(source, reading=Reading(reporter=notes))
        assert (dataset.classes, len(dataset)) == (("a", "b"), 2)
        assert dataset.left_out == {"clutter": 4, "not an image": 1, "beside the class folders": 1}
        (said,), notes.notes = notes.notes, []
        assert said.startswith(f"left out of {source}: ")
        for name in ("@eaDir", "a/notes.txt", "top.png"):
            assert name in said


def test_a_class_folder_may_be_a_link(tmp_path: Path) -> None:
    folder(tmp_path / "elsewhere", {"1.png": 1})
    source = folder(tmp_path / "set", {"a/1.png": 2})
    os.symlink(tmp_path / "elsewhere", tmp_path / "set" / "b")
    assert values(load_dataset(source)) == [2, 1]


def test_a_linked_folder_inside_a_class_is_part_of_it(tmp_path: Path) -> None:
    folder(tmp_path / "pool", {"2.png": 2, "deep/3.png": 3})
    source = folder(tmp_path / "set", {"a/1.png": 1, "b/1.png": 9})
    os.symlink(tmp_path / "pool", tmp_path / "set" / "a" / "more")
    os.symlink(tmp_path / "set" / "b", tmp_path / "set" / "b" / "loop")
    dataset = load_dataset(source)
    assert values(dataset) == [1, 2, 3, 9]
    assert dataset.left_out == {"linked twice or in a circle": 1}


def test_a_folder_that_is_linked_into_two_classes_is_not_in_both(tmp_path: Path) -> None:
    source = folder(tmp_path / "set", {"a/1.png": 1})
    os.symlink(tmp_path / "set" / "a", tmp_path / "set" / "b")
    assert "the class 'b'" in str(refusal(source))
    assert "linked twice or in a circle: 1 (b)" in str(refusal(source))


def test_a_pipe_or_a_broken_link_does_not_stop_the_reading(tmp_path: Path) -> None:
    source = folder(tmp_path / "set", {"a/1.png": 1, "b/1.png": 9})
    os.mkfifo(tmp_path / "set" / "a" / "pipe.png")
    os.symlink(tmp_path / "gone.png", tmp_path / "set" / "b" / "2.png")
    said = str(refusal(source))
    assert "2 of 4 images" in said
    assert (
        "a/pipe.png: it is not a file; b/2.png: the file cannot be read (No such file or directory)" in said
    )


def test_the_digest_ignores_the_order_of_files_and_where_they_lie(tmp_path: Path) -> None:
    backwards = dict(reversed(FLOWERS.items()))
    first = load_dataset(folder(tmp_path / "one", FLOWERS))
    assert load_dataset(folder(tmp_path / "two", backwards)).digest == first.digest
    assert load_dataset(zipped(tmp_path / "a.zip", backwards)).digest == first.digest
    assert load_dataset(zipped(tmp_path / "b.zip", FLOWERS, "sub/") + "::sub").digest == first.digest


@pytest.mark.parametrize(
    "changed",
    [
        FLOWERS | {"rose/1.png": 11},
        FLOWERS | {"rose/3.png": 10},
        {name.replace("rose", "rosa"): value for name, value in FLOWERS.items()},
        {**FLOWERS, "rose/1.png": 20, "rose/2.png": 10},
        {"rose/1.png": 10, "tulip/1.png": 30, "tulip/2.png": 20, "tulip/deep/er/2.PNG": 40},
    ],
    ids=["a byte", "a file", "a class name", "swapped files", "a label"],
)
def test_the_digest_changes_with_the_content(tmp_path: Path, changed: dict[str, int]) -> None:
    assert (
        load_dataset(folder(tmp_path / "a", FLOWERS)).digest
        != load_dataset(folder(tmp_path / "b", changed)).digest
    )


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    assert "no class sub-folders" in str(refusal(folder(tmp_path, {"1.png": 1, "2.png": 2})))


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    said = str(refusal(folder(tmp_path, {"a/1.txt": b"", "b/2.csv": b""})))
    assert "has no images in its sub-folders (left out: not an image: 2 (a/1.txt, b/2.csv))" in said


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    source = folder(tmp_path, FLOWERS)
    (tmp_path / "violet").mkdir()
    assert "the class 'violet'" in str(refusal(source))


def test_a_task_of_one_class_is_refused(tmp_path: Path) -> None:
    assert "one class only, 'rose'" in str(refusal(folder(tmp_path, {"rose/1.png": 1})))


def test_a_folder_around_the_class_folders_is_named(tmp_path: Path) -> None:
    source = folder(tmp_path / "top", {f"flowers/{name}": value for name, value in FLOWERS.items()})
    assert str(refusal(source)).endswith(f"write {source}/flowers")


def test_an_image_in_two_classes_is_told(tmp_path: Path) -> None:
    twice = image(7)
    files: dict[str, int | bytes] = {
        "dog/1.png": twice,
        "dog/2.png": twice,
        "horse/7.png": twice,
        "horse/8.png": 3,
    }
    notes = Notes()
    load_dataset(folder(tmp_path, files), reading=Reading(reporter=notes))
    assert notes.notes == [f"{tmp_path} has the same image in several classes: dog/1.png = horse/7.png"]
