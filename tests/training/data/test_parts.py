from pathlib import Path

import pytest

from tests.training.data.files import FLOWERS, folder, refusal, zipped
from tests.training.run.notes import Notes
from training.data.parts import are_parts, class_root, repeated_folders
from training.data.reading import Reading
from training.data.sources import load_dataset


@pytest.mark.parametrize(
    "names",
    [
        *(["train", "val"], ["Training", "Testing"], ["TRAIN", "dev"], ["train", "test", "valid"]),
        *(
            ["training_set", "test_set"],
            ["train800", "val200", "train800val200", "test"],
            ["trainA", "testA"],
        ),
        *(["seg_train", "seg_test", "seg_pred"], ["asl_alphabet_train", "asl_alphabet_test"]),
        *(["train2017", "val2017", "annotations"], ["images", "labels"], ["Annotations", "JPEGImages", "x"]),
        *(
            ["Images_Train", "Images_Test"],
            ["fold1", "fold2"],
            ["train", "held-out"],
            ["testing", "evaluation"],
            ["train", "unlabeled"],
            ["imagesTr", "imagesTs", "labelsTr"],
        ),
    ],
    ids="+".join,
)
def test_names_of_parts_are_known(names: list[str]) -> None:
    assert are_parts(names)


@pytest.mark.parametrize(
    "names",
    [
        *(["train", "car", "bus"], ["valid", "invalid"], ["test", "cat", "dog"], ["cat", "dog"], ["train"]),
        *(["photos", "drawings"], ["1", "2"], ["a", "b"], ["validated", "open"], ["trainer", "tester"]),
    ],
    ids="+".join,
)
def test_names_of_classes_are_not_parts(names: list[str]) -> None:
    assert not are_parts(names)


@pytest.mark.parametrize("pack", ["folder", "zip"])
def test_parts_are_refused_with_the_folder_to_name(tmp_path: Path, pack: str) -> None:
    files = {f"{part}/{name}": value for name, value in FLOWERS.items() for part in ("Training", "Testing")}
    source = folder(tmp_path / "top", files) if pack == "folder" else zipped(tmp_path / "x.zip", files)
    said = str(refusal(source))
    assert "has the parts 'Testing', 'Training' where its classes should be" in said
    assert said.endswith(f"write {source}{'/' if pack == 'folder' else '::'}Training")


def test_a_test_part_without_classes_does_not_hide_the_parts(tmp_path: Path) -> None:
    files = {f"train/{name}": value for name, value in FLOWERS.items()} | {"test/1.png": 1, "test/2.png": 2}
    assert str(refusal(folder(tmp_path, files))).endswith(f"write {tmp_path}/train")


def test_parts_without_class_folders_say_what_to_make(tmp_path: Path) -> None:
    files = {f"images/{part}/{i}.png": i for part in ("train800", "val200", "test") for i in range(3)}
    for source in (folder(tmp_path, files), f"{tmp_path}/images"):
        assert str(refusal(source)).endswith(
            "put the images of each class in a folder of its own, named after the class"
        )


def test_folders_around_parts_are_looked_through(tmp_path: Path) -> None:
    files = {f"data/v2/{part}/{name}": value for name, value in FLOWERS.items() for part in ("train", "val")}
    assert str(refusal(folder(tmp_path, files))).endswith(f"write {tmp_path}/data/v2/train")


def test_a_single_class_named_like_a_part_is_told(tmp_path: Path) -> None:
    notes = Notes()
    source = folder(tmp_path, FLOWERS | {"test/1.png": 1})
    assert load_dataset(source, reading=Reading(reporter=notes)).classes == ("rose", "test", "tulip")
    assert notes.notes == [f"'test' of {source}: taken for classes, named like parts of a data set"]


def test_domains_with_the_same_classes_are_told(tmp_path: Path) -> None:
    notes = Notes()
    folders = [f"{domain}/{name}" for domain in ("photo", "sketch") for name in ("cat", "dog")]
    source = folder(
        tmp_path, {f"{where}/{i}.png": 10 * n + i for n, where in enumerate(folders) for i in (0, 1)}
    )
    load_dataset(source, reading=Reading(reporter=notes))
    (said,) = notes.notes
    assert said.endswith(
        f"the sub-folders 'cat', 'dog'; if those are the classes, name one folder, such as {source}/photo"
    )


def test_where_class_folders_are() -> None:
    def root(*paths: str) -> list[str] | None:
        return class_root([path.split("/") for path in paths])

    assert root("a/1", "b/1") == []
    assert root("top/a/1", "top/b/1") == ["top"]
    assert root("test/1", "train/a/1", "train/b/1") == ["train"]
    assert root("train/1", "test/a/1", "test/b/1") == ["test"]
    assert root("1", "2") is root("train/1", "test/1") is None
    assert repeated_folders([["a", "x", "1"], ["b", "x", "1"]]) == []
