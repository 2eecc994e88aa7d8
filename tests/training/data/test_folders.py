import os
from pathlib import Path

import pytest
import torch

from petl_vit.errors import InvalidInput
from tests.training.data.files import FLOWERS, SMALL, folder, image, refusal, values, zipped
from training.data.pixels import load_pixels
from training.data.sources import load_dataset


def test_a_folder_has_a_class_for_each_sub_folder(tmp_path: Path) -> None:
    dataset = load_dataset(folder(tmp_path / "flowers", FLOWERS))
    assert dataset.classes == ("rose", "tulip")
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.labels.dtype == torch.int64
    assert values(dataset) == [10, 20, 30, 40]
    assert len(dataset) == len(dataset.images) == 4


def test_a_folder_reads_all_formats_and_skips_other_files(tmp_path: Path) -> None:
    files: dict[str, int | bytes] = {
        "a/1.JPG": image(1, "JPEG"),
        "a/2.jpeg": image(2, "JPEG"),
        "b/3.png": image(3),
        "b/4.webp": image(4, "WEBP"),
    }
    clutter: dict[str, int | bytes] = {
        "a/notes.txt": b"x",
        "b/.hidden.png": b"x",
        ".git/x.png": b"x",
        "__MACOSX/b/3.png": b"x",
        "top.png": 1,
    }
    dataset = load_dataset(folder(tmp_path, files | clutter))
    assert dataset.classes == ("a", "b")
    assert len(dataset) == 4


def test_a_class_folder_may_be_a_link(tmp_path: Path) -> None:
    folder(tmp_path / "elsewhere", {"1.png": 1})
    source = folder(tmp_path / "set", {"a/1.png": 2})
    os.symlink(tmp_path / "elsewhere", tmp_path / "set" / "b")
    assert values(load_dataset(source)) == [2, 1]


def test_images_are_decoded_only_when_asked_for(tmp_path: Path) -> None:
    dataset = load_dataset(folder(tmp_path, FLOWERS | {"rose/3.png": b"no image"}))
    assert int(dataset.images[0][0, 0, 0]) == 10
    with pytest.raises(InvalidInput, match=r"rose/3\.png"):
        dataset.images[2]


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
    assert "has no images; images end in jpeg" in str(
        refusal(folder(tmp_path, {"a/1.txt": b"", "b/1.gif": b""}))
    )


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    source = folder(tmp_path, FLOWERS)
    (tmp_path / "violet").mkdir()
    assert "the class 'violet'" in str(refusal(source))


def test_a_task_of_one_class_is_refused(tmp_path: Path) -> None:
    assert "one class only, 'rose'" in str(refusal(folder(tmp_path, {"rose/1.png": 1})))


def test_a_folder_around_the_class_folders_is_named(tmp_path: Path) -> None:
    source = folder(tmp_path / "top", {f"flowers/{name}": value for name, value in FLOWERS.items()})
    assert str(refusal(source)).endswith(f"write {source}/flowers")


def test_a_folder_of_splits_is_not_taken_for_classes(tmp_path: Path) -> None:
    files = {f"{part}/{name}": value for name, value in FLOWERS.items() for part in ("train", "val")}
    source = folder(tmp_path / "top", files)
    assert str(refusal(source)).endswith(f"write {source}/train")


# Zips


def test_a_zip_is_read_without_unpacking(tmp_path: Path) -> None:
    source = zipped(tmp_path / "flowers.zip", FLOWERS)
    dataset = load_dataset(source)
    assert dataset.classes == ("rose", "tulip")
    assert values(dataset) == [10, 20, 30, 40]
    assert [entry.name for entry in tmp_path.iterdir()] == ["flowers.zip"]


def test_a_folder_inside_a_zip_is_named_after_two_colons(tmp_path: Path) -> None:
    source = zipped(tmp_path / "x.zip", FLOWERS, "sets/flowers/")
    for part in ("sets/flowers", "sets/flowers/", "/sets/flowers"):
        assert values(load_dataset(f"{source}::{part}")) == [10, 20, 30, 40]


def test_a_missing_folder_inside_a_zip_names_its_near_matches(tmp_path: Path) -> None:
    source = zipped(tmp_path / "x.zip", FLOWERS, "sets/flowers/")
    assert "did you mean sets/flowers" in str(refusal(f"{source}::sets/flower"))


def test_a_zip_with_a_folder_around_the_classes_says_what_to_write(tmp_path: Path) -> None:
    source = zipped(tmp_path / "x.zip", FLOWERS, "flowers/")
    assert str(refusal(source)).endswith(f"write {source}::flowers")


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\3\4 but no more"])
def test_an_unreadable_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "cannot be read" in str(refusal(folder(tmp_path, {"x.zip": content}) + "/x.zip"))


def test_a_damaged_file_in_a_zip_is_named(tmp_path: Path) -> None:
    source = zipped(tmp_path / "x.zip", FLOWERS)
    data = bytearray(Path(source).read_bytes())
    data[data.index(b"IDAT") + 5] ^= 0xFF
    Path(source).write_bytes(data)
    assert "rose/1.png cannot be read (Bad CRC-32" in str(refusal(source))


@pytest.mark.parametrize(
    "name", ["../a/1.png", "/a/1.png", "a/../../1.png", "a\\..\\..\\1.png", "C:\\a\\1.png"]
)
def test_a_zip_with_an_unsafe_path_is_refused(tmp_path: Path, name: str) -> None:
    assert "unsafe path" in str(refusal(zipped(tmp_path / "x.zip", {**FLOWERS, name: 1})))


def test_a_zip_is_read_from_many_threads(tmp_path: Path) -> None:
    files = {f"{'ab'[index % 2]}/{index:03}.png": index % 256 for index in range(200)}
    dataset = load_dataset(zipped(tmp_path / "x.zip", files))
    assert load_pixels(dataset, SMALL)[:, 0, 0, 0].tolist() == [*range(0, 200, 2), *range(1, 200, 2)]
