"""VTAB-1K's published layout, with small images of our own."""

from pathlib import Path

import pytest

from petl_vit.errors import InvalidInput, NotFound
from tests.training.data.files import folder, image, refusal, values, zipped
from tests.training.run.notes import Notes
from training.data.reading import Reading
from training.data.sources import load_dataset, source_parts, training_parts
from training.data.vtab import TASKS

KITTI = {"train800": [0, 1, 2, 3, 1], "val200": [2, 0], "test": [3, 2, 1]}


def task(root: Path, lists: dict[str, list[int]], prefix: str = "", both: bool = True) -> str:
    """A task as the published script writes it; every image has a value of its own."""
    files: dict[str, int | bytes] = {}
    value = 0
    for name, labels in lists.items():
        lines = []
        for number, label in enumerate(labels):
            path = f"images/{name}/{number:06d}.jpg"
            value += 10
            files[path] = image(value, "JPEG")
            lines.append(f"{prefix}{path} {label}\n")
        files[f"{name}.txt"] = "".join(lines).encode()
    if both:
        files["train800val200.txt"] = bytes(files["train800.txt"]) + bytes(files["val200.txt"])  # type: ignore[arg-type]
    return folder(root, files)


def test_a_task_trains_on_the_thousand_and_is_tested_on_the_test_list(tmp_path: Path) -> None:
    source = task(tmp_path / "kitti", KITTI)
    parts = source_parts(source)
    assert parts is not None
    assert parts.names == ("train800", "val200", "train800val200", "test")
    assert parts.training == parts.final == f"{source}::train800val200"
    assert parts.heldout == parts.tested == f"{source}::test"
    assert parts.tuning == (f"{source}::train800", f"{source}::val200")
    dataset = load_dataset(source)
    assert dataset.name == parts.training
    assert dataset.classes == ("class 0", "class 1", "class 2", "class 3")
    assert [len(load_dataset(f"{source}::{name}")) for name in parts.names] == [5, 2, 7, 3]
    assert values(load_dataset(source, reading=Reading(measured=True))) == [100, 90, 80]
    assert training_parts(source, None, Reading()) == (parts.training, parts.tested)
    assert training_parts(source, "other/", Reading()) == (parts.training, "other/")
    assert training_parts(f"{source}::train800", None, Reading()) == (f"{source}::train800", None)


def test_the_two_tuning_lists_make_the_thousand(tmp_path: Path) -> None:
    source = task(tmp_path / "kitti", KITTI)
    both = load_dataset(f"{source}::train800+val200")
    assert both.digest == load_dataset(source).digest
    assert load_dataset(task(tmp_path / "other" / "kitti", KITTI, both=False)).digest == both.digest


@pytest.mark.parametrize(
    "prefix", ["", "./", "kitti/", "images\\..\\"], ids=["in the folder", "./", "from above", "backslashes"]
)
def test_paths_of_the_lists_start_where_they_may(tmp_path: Path, prefix: str) -> None:
    assert values(load_dataset(task(tmp_path / "kitti", KITTI, prefix) + "::val200")) == [70, 60]


def test_lists_without_the_folder_images_in_their_paths_are_read(tmp_path: Path) -> None:
    source = task(tmp_path / "kitti", KITTI)
    for list_of in tmp_path.glob("kitti/*.txt"):
        list_of.write_text(list_of.read_text().replace("images/", ""))
    assert values(load_dataset(f"{source}::val200")) == [70, 60]


@pytest.mark.parametrize("name", ["kitti", "vtab-kitti", "KITTI"])
def test_a_task_is_known_by_the_name_of_its_folder(tmp_path: Path, name: str) -> None:
    said = str(refusal(task(tmp_path / name, KITTI | {"test": [4]})))
    assert "go from 0 to 4, and kitti of VTAB-1K has 4 classes, 0 to 3; get the set again" in said
    said = str(refusal(task(tmp_path / "few" / name, {one: [0, 1] for one in KITTI})))
    assert "go from 0 to 1" in said


def test_all_nineteen_tasks_have_their_number_of_classes(tmp_path: Path) -> None:
    assert len(TASKS) == 19
    for name, (classes, _) in TASKS.items():
        source = task(tmp_path / name, {"train800": [0, 1], "val200": [1], "test": [0, classes - 1]})
        assert len(load_dataset(source).classes) == classes


def test_classes_without_images_are_told_and_kept(tmp_path: Path) -> None:
    notes = Notes()
    source = task(tmp_path / "kitti", KITTI | {"train800": [0, 3], "val200": [3]})
    dataset = load_dataset(source, reading=Reading(reporter=notes))
    assert len(dataset.classes) == 4
    assert f"{source}::train800val200 has no images of 2 of its classes: 'class 1', 'class 2'" in notes.notes
    assert f"train800val200.txt of {source} lists 3 images; as published it lists 1,000" in notes.notes


def test_another_set_in_this_layout_has_the_classes_of_its_labels(tmp_path: Path) -> None:
    notes = Notes()
    source = task(tmp_path / "mine", {"train800": [0, 1], "val200": [1], "test": [2]})
    dataset = load_dataset(source, reading=Reading(reporter=notes))
    assert dataset.classes == ("class 0", "class 1", "class 2")
    assert any(note.startswith(f"{source} is named like no task of VTAB-1K") for note in notes.notes)


def test_names_of_classes_come_from_a_file_beside_the_lists(tmp_path: Path) -> None:
    source = task(tmp_path / "kitti", KITTI)
    (tmp_path / "kitti" / "classes.txt").write_text("near\nfar\nfarther\nnone\n")
    assert load_dataset(source).classes == ("near", "far", "farther", "none")
    (tmp_path / "kitti" / "classes.txt").write_text("near\nfar\nfar\nnone\n")
    assert "has 3 different names for 4 classes" in str(refusal(source))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("images/val200/000000.jpg\n", "line 1 of"),
        ("images/val200/000000.jpg cat\n", "each line is a path, a space and a label"),
        ("images/val200/000000.jpg -1\n", "each line is a path, a space and a label"),
        ("", "val200.txt is empty"),
        ("images/val200/000000.jpg 1\nimages/val200/000000.jpg 2\n", "the label 2 in line 2, and 1 before"),
    ],
)
def test_a_damaged_list_is_refused(tmp_path: Path, line: str, problem: str) -> None:
    source = task(tmp_path / "kitti", KITTI)
    (tmp_path / "kitti" / "val200.txt").write_text(line)
    assert problem in str(refusal(f"{source}::val200"))


def test_missing_and_damaged_images_are_named_or_skipped(tmp_path: Path) -> None:
    source = task(tmp_path / "kitti", KITTI)
    (tmp_path / "kitti" / "images" / "train800" / "000002.jpg").unlink()
    (tmp_path / "kitti" / "images" / "train800" / "000003.jpg").write_bytes(b"no image")
    said = str(refusal(f"{source}::train800"))
    assert "2 of 5 images" in said
    assert "images/train800/000002.jpg: the file cannot be read" in said
    dataset = load_dataset(f"{source}::train800", reading=Reading(skip_bad=True))
    assert (len(dataset), sum(dataset.left_out.values())) == (3, 2)


def test_a_part_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    source = task(tmp_path / "kitti", KITTI)
    with pytest.raises(NotFound, match="did you mean train800"):
        load_dataset(f"{source}::train80")
    assert "it has 'train800', 'val200'" in str(refusal(f"{source}::x"))


def test_the_folder_of_all_tasks_is_refused_with_one_to_name(tmp_path: Path) -> None:
    task(tmp_path / "kitti", KITTI)
    task(tmp_path / "svhn", KITTI)
    with pytest.raises(InvalidInput, match="holds the tasks 'kitti', 'svhn' of VTAB-1K; name one"):
        load_dataset(str(tmp_path))


def test_a_task_in_a_zip_has_to_be_unpacked(tmp_path: Path) -> None:
    source = Path(task(tmp_path / "kitti", KITTI))
    files = {str(file.relative_to(source)): file.read_bytes() for file in source.rglob("*") if file.is_file()}
    said = str(refusal(zipped(tmp_path / "kitti.zip", files)))
    assert said.endswith("unpack it: the lists of VTAB-1K are read from a folder")
