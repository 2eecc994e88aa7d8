"""Sets of Hugging Face's `datasets`, made here and saved on disk; nothing is downloaded."""

import sys
from pathlib import Path
from typing import Any

import pytest

from petl_vit.errors import InvalidInput, NotFound
from tests.training.data.files import FLOWERS, folder, image, refusal, values
from training.data.reading import Reading
from training.data.sources import load_dataset, source_parts, training_parts

datasets = pytest.importorskip("datasets", reason="needs datasets, of the extra of that name")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, no bars, and no cache but one of this test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def made(pixels: list[int], labels: list[Any] | None = None, **columns: Any) -> Any:
    """A set of grey images; labels are of cats and dogs."""
    rows = {"image": [{"bytes": image(value), "path": None} for value in pixels]}
    features = {"image": datasets.Image()}
    if labels is not None:
        rows["label"] = labels
        features["label"] = datasets.ClassLabel(names=["cat", "dog"])
    for name, (values_of, feature) in columns.items():
        rows[name], features[name] = values_of, feature
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def saved(path: Path, one: Any) -> str:
    one.save_to_disk(str(path))
    return str(path)


def test_a_saved_set_has_its_images_and_the_names_of_its_classes(tmp_path: Path) -> None:
    source = saved(tmp_path / "pets", made([10, 20, 30, 40], [1, 0, 1, 0]))
    dataset = load_dataset(source)
    assert (dataset.name, dataset.classes) == (source, ("cat", "dog"))
    assert sorted(values(dataset)) == [10, 20, 30, 40]
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert load_dataset(f"hf:{source}").digest == dataset.digest
    turned = saved(tmp_path / "turned", made([40, 30, 20, 10], [0, 1, 0, 1]))
    assert load_dataset(turned).digest == dataset.digest
    assert "is not in parts" in str(refusal(f"{source}::train"))


def test_the_splits_of_a_saved_set_are_its_parts(tmp_path: Path) -> None:
    several = {
        "train": made([10, 20], [0, 1]),
        "validation": made([30, 40], [0, 1]),
        "test": made([50, 60], [0, 1]),
    }
    source = saved(tmp_path / "pets", datasets.DatasetDict(several))
    parts = source_parts(source)
    assert parts is not None
    assert parts.names == ("train", "validation", "test")
    assert parts.final == f"{source}::train+validation"
    assert sorted(values(load_dataset(source))) == [10, 20]
    assert sorted(values(load_dataset(parts.final))) == [10, 20, 30, 40]
    assert sorted(values(load_dataset(source, reading=Reading(measured=True)))) == [50, 60]
    assert training_parts(source, None, Reading()) == (f"{source}::train", f"{source}::validation")
    with pytest.raises(NotFound, match=r"no part 'tets'; did you mean test\?"):
        load_dataset(f"{source}::tets")


def test_a_folder_of_parquet_files_has_the_splits_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "pets" / "data").mkdir(parents=True)
    for name, pixels in (("train", [10, 20]), ("test", [50, 60])):
        file = tmp_path / "pets" / "data" / f"{name}-00000-of-00001.parquet"
        made(pixels, [0, 1]).to_parquet(str(file))
    source = str(tmp_path / "pets")
    assert load_dataset(source).classes == ("cat", "dog")
    assert sorted(values(load_dataset(source))) == [10, 20]
    assert sorted(values(load_dataset(f"{source}::test"))) == [50, 60]
    one = tmp_path / "pets" / "data" / "test-00000-of-00001.parquet"
    assert load_dataset(str(one)).digest == load_dataset(f"{source}::test").digest


def test_a_folder_of_images_stays_one_whatever_lies_beside_them(tmp_path: Path) -> None:
    beside: dict[str, int | bytes] = {
        "dataset_info.json": b"{}",
        "index.parquet": b"x",
        "rose/x.parquet": b"x",
    }
    assert load_dataset(folder(tmp_path, FLOWERS | beside)).classes == ("rose", "tulip")


def test_images_that_are_files_elsewhere_are_read_from_there(tmp_path: Path) -> None:
    files = folder(tmp_path / "files", {"1.png": 10, "2.png": 20})
    rows = {"image": [f"{files}/1.png", f"{files}/2.png"], "label": ["cat", "dog"]}
    one = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    assert sorted(values(load_dataset(saved(tmp_path / "pets", one)))) == [10, 20]
    plain = saved(tmp_path / "plain", datasets.Dataset.from_dict(rows))
    chosen = Reading(image_column="image")
    assert sorted(values(load_dataset(plain, reading=chosen))) == [10, 20]
    (tmp_path / "files" / "2.png").unlink()
    with pytest.raises(InvalidInput, match="row 2: the file cannot be read"):
        load_dataset(plain, reading=chosen)


def test_a_set_without_images_is_refused_with_its_columns(tmp_path: Path) -> None:
    source = saved(tmp_path / "texts", datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}))
    assert "has no column of images; its columns are 'text', 'label'" in str(refusal(source))
    with pytest.raises(InvalidInput, match=r"no column 'txt'; did you mean text\?") as caught:
        load_dataset(source, reading=Reading(image_column="txt"))
    assert caught.value.field == "image_column"
    with pytest.raises(InvalidInput, match=r"the column 'label' of .* holds no images"):
        load_dataset(source, reading=Reading(image_column="label"))


def test_one_of_several_columns_of_labels_has_to_be_named(tmp_path: Path) -> None:
    coarse = ([0, 1], datasets.ClassLabel(names=["a", "b"]))
    fine = ([1, 0], datasets.ClassLabel(names=["c", "d"]))
    source = saved(tmp_path / "pets", made([10, 20], coarse_label=coarse, fine_label=fine))
    assert "several columns of the kind label: 'coarse_label', 'fine_label'" in str(refusal(source))
    chosen = load_dataset(source, reading=Reading(label_column="fine_label"))
    assert (chosen.classes, values(chosen)) == (("c", "d"), [20, 10])


def test_labels_may_be_texts_or_numbers_without_names(tmp_path: Path) -> None:
    texts = made([10, 20], species=(["rose", "tulip"], datasets.Value("string")))
    chosen = Reading(label_column="species")
    assert load_dataset(saved(tmp_path / "a", texts), reading=chosen).classes == ("rose", "tulip")
    numbers = made([10, 20], label_id=([9, 10], datasets.Value("int64")))
    chosen = Reading(label_column="label_id")
    assert load_dataset(saved(tmp_path / "b", numbers), reading=chosen).classes == ("9", "10")
    assert "has no column 'label'" in str(refusal(saved(tmp_path / "c", made([10, 20]))))


def test_rows_without_a_label_are_named_or_skipped(tmp_path: Path) -> None:
    source = saved(tmp_path / "some", made([10, 20, 30, 40], [0, 1, -1, None]))
    assert "2 of 4 rows of" in str(refusal(source))
    dataset = load_dataset(source, reading=Reading(skip_bad=True))
    assert (sorted(values(dataset)), dataset.left_out) == ([10, 20], {"without a label": 2})
    none = saved(tmp_path / "none", made([10, 20], [-1, -1]))
    with pytest.raises(
        InvalidInput, match=r"2 of 2 rows of .* have no label: row 1, row 2; name another part"
    ):
        load_dataset(none, reading=Reading(skip_bad=True))


def test_a_split_without_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    several = datasets.DatasetDict({"train": made([10, 20], [0, 1]), "test": made([], [])})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: several)
    assert "hf:org/set::test has no rows; name another part" in str(refusal("hf:org/set::test"))


def test_unreadable_images_are_named_or_skipped(tmp_path: Path) -> None:
    files = {"good.png": image(10), "bad.png": b"no image", "other.png": image(20)}
    cells = [{"bytes": data, "path": name} for name, data in files.items()]
    rows = {"image": [*cells, None], "label": [0, 1, 1, 0]}
    kinds = {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=["cat", "dog"])}
    source = saved(tmp_path / "pets", datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)))
    said = str(refusal(source))
    assert "2 of 4 images" in said
    assert "row 2: the bytes are not an image of a known format" in said
    assert "row 4: the row is without an image" in said
    dataset = load_dataset(source, reading=Reading(skip_bad=True))
    assert (values(dataset), sum(dataset.left_out.values())) == ([10, 20], 2)


def test_a_name_that_cannot_be_reached_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    said = str(refusal("hf:nobody/no-such-set"))
    assert "hf:nobody/no-such-set" in said
    assert "network" in said

    def configured(name: str, config: str | None) -> Any:
        assert (name, config) == ("org/set", None)
        raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['a', 'b']")

    monkeypatch.setattr(datasets, "load_dataset", configured)
    assert "name the configuration as in hf:org/set/NAME" in str(refusal("hf:org/set"))


def test_a_configuration_is_the_third_part_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def found(name: str, config: str | None) -> Any:
        asked.append((name, config))
        return datasets.DatasetDict({"train": made([10, 20], [0, 1])})

    monkeypatch.setattr(datasets, "load_dataset", found)
    for source in ("hf:org/set/large::train", "hf:org/set", "hf:mnist"):
        assert len(load_dataset(source)) == 2
    assert asked == [("org/set", "large"), ("org/set", None), ("mnist", None)]


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "needs the package datasets; pip install 'corolla[datasets]'" in str(refusal("hf:org/set"))
