from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petl_vit.errors import InvalidInput
from tests.training.data.files import folder, npz, pixels, refusal, values
from training.data.sources import load_dataset


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3), (5, 6, 4)])
def test_an_npz_holds_grey_or_colour_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = pixels(4, *shape)
    if shape[-1] == 4:
        array[..., 3] = 255
    dataset = load_dataset(npz(tmp_path / "x.npz", images=array, labels=[7, 5, 7, 5]))
    assert dataset.classes == ("5", "7")
    assert dataset.labels.tolist() == [1, 0, 1, 0]
    assert dataset.images[2].shape == (3, 5, 6)
    assert values(dataset) == [0, 1, 2, 3]


def test_an_npz_may_name_its_classes(tmp_path: Path) -> None:
    source = npz(tmp_path / "x.npz", images=pixels(), labels=[[0], [1], [1], [0]], classes=["z", "a"])
    assert load_dataset(source).classes == ("z", "a")
    assert load_dataset(source).labels.tolist() == [0, 1, 1, 0]


def test_an_npz_may_hold_a_training_and_a_test_part(tmp_path: Path) -> None:
    source = npz(
        tmp_path / "x.npz",
        x_train=pixels(4),
        y_train=[0, 1, 0, 1],
        x_test=pixels(3),
        y_test=np.array([1, 0, 1], dtype=np.uint8),
    )
    assert len(load_dataset(source)) == 4
    assert load_dataset(f"{source}::test").labels.tolist() == [1, 0, 1]
    assert "no images and labels of the part 'tset'" in str(refusal(f"{source}::tset"))


def test_the_digest_of_arrays_follows_pixels_and_class_names(tmp_path: Path) -> None:
    def digest(**arrays: Any) -> str:
        return load_dataset(npz(tmp_path / "x.npz", **arrays)).digest

    labels = [0, 1, 0, 1]
    same = digest(images=pixels(), labels=labels)
    assert digest(images=pixels(), labels=labels, classes=["0", "1"]) == same
    assert digest(images=pixels() + np.uint8(1), labels=labels) != same
    assert digest(images=pixels(), labels=[1, 0, 0, 1]) != same
    assert digest(images=pixels(), labels=labels, classes=["0", "2"]) != same
    assert digest(images=pixels().reshape(4, 6, 5), labels=labels) != same


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"pictures": pixels()}, "its arrays are 'pictures'"),
        ({"images": pixels().astype(np.float32), "labels": [0, 1, 0, 1]}, "float32, not uint8"),
        ({"images": np.full((4, 5, 6), np.nan), "labels": [0, 1, 0, 1]}, "float64 with NaN"),
        ({"images": pixels(4, 30), "labels": [0, 1, 0, 1]}, r"shape \[4, 30\]"),
        ({"images": pixels(4, 3, 5, 6), "labels": [0, 1, 0, 1]}, r"shape \[4, 3, 5, 6\]"),
        ({"images": np.zeros((0, 5, 6), np.uint8), "labels": np.zeros(0, int)}, "has no images"),
        ({"images": pixels(), "labels": [0, 1, 0]}, r"shape \[3\] for 4 images"),
        ({"images": pixels(), "labels": np.eye(4, dtype=int)}, r"shape \[4, 4\] for 4 images"),
        ({"images": pixels(), "labels": [0.0, 1.0, np.nan, 1.0]}, "float64 with NaN, not integer"),
        ({"images": pixels(), "labels": ["a", "b", "a", "b"]}, "not integer"),
        ({"images": pixels(), "labels": [0, 1, 2, 1], "classes": ["a", "b"]}, "from 0 to 2 for 2 classes"),
        ({"images": pixels(), "labels": [0, 1, -1, 1], "classes": ["a", "b"]}, "from -1 to 1 for 2"),
        ({"images": pixels(), "labels": [0, 1, 0, 1], "classes": ["a", "a"]}, "different names"),
        ({"images": pixels(), "labels": [0, 1, 0, 1], "classes": ["a", ""]}, "different names"),
        ({"images": pixels(), "labels": [0, 1, 0, 1], "classes": [1, 2]}, "different names"),
        ({"images": pixels(), "labels": [0, 1, 0, 1], "classes": ["a", "b", "c"]}, "class 'c' of"),
        ({"images": pixels(), "labels": [3, 3, 3, 3]}, "one class only, '3'"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_task_are_refused(tmp_path: Path, arrays: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as caught:
        load_dataset(npz(tmp_path / "x.npz", **arrays))
    assert caught.value.field == "data"
    assert caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no npz", b"PK\3\4"])
def test_an_unreadable_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "cannot be read" in str(refusal(folder(tmp_path, {"x.npz": content}) + "/x.npz"))


def test_a_truncated_npz_is_refused(tmp_path: Path) -> None:
    source = npz(tmp_path / "x.npz", images=pixels(), labels=[0, 1, 0, 1])
    Path(source).write_bytes(Path(source).read_bytes()[:-40])
    assert "cannot be read" in str(refusal(source))


def test_pickled_objects_in_an_npz_are_never_loaded(tmp_path: Path) -> None:
    source = npz(tmp_path / "x.npz", images=np.array([{}, {}], dtype=object), labels=[0, 1])
    assert "cannot be read (Object arrays cannot be loaded" in str(refusal(source))
