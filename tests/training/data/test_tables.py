"""CSV and Parquet tables of images and labels."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from petl_vit.errors import InvalidInput, NotFound
from tests.training.data.files import FLOWERS, folder, image, refusal, values
from tests.training.run.notes import Notes
from training.data.reading import Reading
from training.data.records import Dataset
from training.data.sources import load_dataset, load_parts, source_parts

ROWS = "rose/1.png,rose\nrose/2.png,rose\ntulip/1.png,tulip\ntulip/deep/er/2.PNG,tulip\n"


def table(root: Path, text: str, name: str = "labels.csv", encoding: str = "utf-8") -> str:
    folder(root, FLOWERS)
    (root / name).write_bytes(text.encode(encoding))
    return str(root / name)


def parquet(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = pa.table(columns)
    if features is not None:
        info = json.dumps({"info": {"features": features}})
        data = data.replace_schema_metadata({"huggingface": info})
    pq.write_table(data, path)
    return str(path)


def skipped(source: str) -> Dataset:
    return load_dataset(source, reading=Reading(skip_bad=True))


def test_a_csv_names_the_images_that_a_folder_would_have(tmp_path: Path) -> None:
    dataset = load_dataset(table(tmp_path, "image,label\n" + ROWS))
    assert (dataset.classes, values(dataset)) == (("rose", "tulip"), [10, 20, 30, 40])
    assert dataset.name == str(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").unlink()
    assert dataset.digest == load_dataset(str(tmp_path)).digest


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffPath;Class\n" + ROWS.replace(",", ";"),
        "class\tnote\tfile_name\n"
        + "\n".join("\t".join([r.split(",")[1], "x", r.split(",")[0]]) for r in ROWS.split()),
        '"image","label"\r\n'
        + "".join(f'"{r.split(",")[0]}","{r.split(",")[1]}"\r\n\r\n' for r in ROWS.split()),
        "\n\nimage,label\n" + ROWS,
        "image,label\n" + ROWS.replace("/", "\\"),
        "image,label\n" + ROWS.replace("rose/1", "./rose/1"),
    ],
    ids=[
        "byte-order mark, semicolons",
        "tabs, other columns",
        "quotation marks, empty lines",
        "empty lines first",
        "\\",
        "./",
    ],
)
def test_tables_of_other_programs_are_read(tmp_path: Path, text: str) -> None:
    assert values(load_dataset(table(tmp_path, text))) == [10, 20, 30, 40]


def test_a_table_in_utf_16_is_read_and_another_encoding_is_refused(tmp_path: Path) -> None:
    rows = "image,label\n" + ROWS.replace(",rose", ",r\u00f6se")
    assert load_dataset(table(tmp_path, rows, encoding="utf-16")).classes == ("r\u00f6se", "tulip")
    assert "save it as UTF-8" in str(refusal(table(tmp_path, rows, encoding="latin-1")))


def test_a_cell_with_the_separator_is_quoted_or_refused(tmp_path: Path) -> None:
    folder(tmp_path, {"a, b.png": 5})
    quoted = load_dataset(table(tmp_path, 'image,label\n"a, b.png",rose\n' + ROWS))
    assert sorted(values(quoted)) == [5, 10, 20, 30, 40]
    said = str(refusal(table(tmp_path, "image,label\na, b.png,rose\n" + ROWS)))
    assert "line 2 of" in said
    assert "has 3 cells for 2 columns; put a cell that holds ',' into quotation marks" in said
    assert "check its quotation marks" in str(
        refusal(table(tmp_path, 'image,label\n"a, b.png,rose\n' + ROWS))
    )


def test_absolute_paths_are_read_and_are_the_same_set_inside_the_tables_folder(tmp_path: Path) -> None:
    relative = load_dataset(table(tmp_path, "image,label\n" + ROWS))
    absolute = "".join(f"{tmp_path}/{row}\n" for row in ROWS.split())
    assert load_dataset(table(tmp_path, "image,label\n" + absolute)).digest == relative.digest
    elsewhere = folder(tmp_path / "elsewhere", {"1.png": 5})
    other = load_dataset(table(tmp_path / "in", f"image,label\n{elsewhere}/1.png,rose\n" + ROWS))
    assert sorted(values(other)) == [5, 10, 20, 30, 40]
    up = load_dataset(table(tmp_path / "in", "image,label\n../elsewhere/1.png,rose\n" + ROWS))
    assert sorted(values(up)) == [5, 10, 20, 30, 40]


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    rows = ROWS.replace(",rose", ",10").replace(",tulip", ",9")
    assert load_dataset(table(tmp_path, "image,label\n" + rows)).classes == ("9", "10")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "picture,label\n" + ROWS,
            "has no column 'image'; its columns are 'picture', 'label'; name the one that",
        ),
        (
            "image,species\n" + ROWS,
            "has no column 'label'; its columns are 'image', 'species'; name the one that",
        ),
        (ROWS, "names the image 'rose/1.png', and no columns; begin it with a line such as image,label"),
        ("", "labels.csv is empty; give it a header"),
        ("image,label\n", "labels.csv has no rows; give it one row for each image"),
        ("image,label\n" + ROWS + "rose/1.png,tulip\n", "the label 'rose' in line 2, and 'tulip' in line 6"),
        ("image,label\n" + ROWS.replace("tulip\n", "rose\n"), "has one class only, 'rose'"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in str(refusal(table(tmp_path, text)))


def test_the_columns_can_be_named(tmp_path: Path) -> None:
    source = table(
        tmp_path, "image,picture,species,label\n" + "".join(f"x,{row},y\n" for row in ROWS.split())
    )
    chosen = Reading(image_column="picture", label_column="species")
    assert values(load_dataset(source, reading=chosen)) == [10, 20, 30, 40]
    with pytest.raises(InvalidInput, match=r"no column 'specie'; did you mean species\?") as caught:
        load_dataset(source, reading=Reading(label_column="specie"))
    assert caught.value.field == "label_column"


def test_a_row_that_is_listed_twice_counts_once(tmp_path: Path) -> None:
    dataset = load_dataset(table(tmp_path, "image,label\n" + ROWS + "rose/1.png,rose\n./rose/1.png,rose\n"))
    assert (len(dataset), dataset.left_out) == (4, {"listed twice": 2})


def test_rows_without_a_label_or_an_image_are_named_or_skipped(tmp_path: Path) -> None:
    source = table(tmp_path, "image,label\n" + ROWS + "rose/1.png,\n,rose\nrose/2.png\n")
    said = str(refusal(source))
    assert "3 of 7 rows" in said
    assert "line 6 is without a label, line 7 is without an image, line 8 is without a label" in said
    assert said.endswith("or go on without them by --skip-bad")
    assert skipped(source).left_out == {"without a label": 2, "without an image": 1}


def test_missing_and_unreadable_images_are_named_or_skipped(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    source = table(tmp_path, "image,label\n" + ROWS + "gone.png,rose\nbad.png,tulip\n")
    said = str(refusal(source))
    assert "2 of 6 images" in said
    assert "gone.png: the file cannot be read (No such file or directory)" in said
    assert "bad.png: the bytes are not an image of a known format" in said
    dataset = skipped(source)
    assert (len(dataset), sum(dataset.left_out.values())) == (4, 2)


def test_a_column_split_makes_parts(tmp_path: Path) -> None:
    folder(tmp_path, {"v.png": 50, "t.png": 60})
    lines = "".join(f"{row},train\n" for row in ROWS.split()) + "v.png,rose,val\nt.png,rose,test\n"
    source = table(tmp_path, "image,label,Split\n" + lines)
    parts = source_parts(source)
    assert parts is not None
    assert parts.names == ("test", "train", "val")
    assert (parts.training, parts.heldout, parts.tested) == (
        f"{source}::train",
        f"{source}::val",
        f"{source}::test",
    )
    assert parts.tuning == (f"{source}::train", f"{source}::val")
    assert values(load_dataset(source)) == values(load_dataset(parts.training)) == [10, 20, 30, 40]
    assert sorted(values(load_dataset(parts.final))) == [10, 20, 30, 40, 50]
    assert values(load_dataset(source, reading=Reading(measured=True))) == [60]
    with pytest.raises(NotFound, match=r"no part 'vl'; did you mean val\?"):
        load_dataset(f"{source}::vl")
    assert "2 rows of" in str(refusal(table(tmp_path, "image,label,split\na,b,train\nc,d,\ne,f,\n")))


def test_parts_of_other_names_have_to_be_named(tmp_path: Path) -> None:
    rows = "".join(f"{row},fold{number % 2}\n" for number, row in enumerate(ROWS.split()))
    source = table(tmp_path, "image,label,split\n" + rows)
    assert source_parts(source) is None
    assert "has the parts 'fold0', 'fold1', none of which is called train" in str(refusal(source))
    assert values(load_dataset(f"{source}::fold0+fold1")) == [10, 20, 30, 40]


def test_a_table_without_parts_has_none_to_name(tmp_path: Path) -> None:
    source = table(tmp_path, "image,label\n" + ROWS)
    assert "is not in parts" in str(refusal(f"{source}::train"))


# Parquet


def test_parquet_holds_paths(tmp_path: Path) -> None:
    folder(tmp_path, FLOWERS)
    columns = {"path": [*FLOWERS], "label": [name.split("/")[0] for name in FLOWERS]}
    dataset = load_dataset(parquet(tmp_path / "labels.parquet", columns))
    assert (dataset.classes, values(dataset)) == (("rose", "tulip"), [10, 20, 30, 40])


def test_parquet_may_hold_some_images_and_the_paths_of_others(tmp_path: Path) -> None:
    folder(tmp_path, {"1.png": 10})
    cells = [{"bytes": None, "path": "1.png"}, {"bytes": image(20), "path": None}]
    dataset = load_dataset(parquet(tmp_path / "x.parquet", {"image": cells, "label": ["a", "b"]}))
    assert values(dataset) == [10, 20]


def test_parquet_holds_the_images_and_names_their_classes(tmp_path: Path) -> None:
    cells = [{"bytes": image(value), "path": "x.png"} for value in (10, 20, 30, 40)]
    columns = {"image": cells, "label": [1, 0, 1, 0]}
    named = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    dataset = load_dataset(parquet(tmp_path / "a.parquet", columns, named))
    assert (dataset.classes, sorted(values(dataset))) == (("cat", "dog"), [10, 20, 30, 40])
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    turned = {"image": cells[::-1], "label": columns["label"][::-1]}
    assert load_dataset(parquet(tmp_path / "b.parquet", turned, named)).digest == dataset.digest
    plain = load_dataset(
        parquet(tmp_path / "c.parquet", {"image": [c["bytes"] for c in cells], "label": [1, 0, 1, 0]})
    )
    assert plain.classes == ("0", "1")


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"image": [1.5, 2.5], "label": ["a", "b"]}, "holds neither paths nor the bytes of image files"),
        ({"image": [b"x", b"y"], "label": [0.5, 1.5]}, "neither text nor a whole number"),
        ({"image": [b"x", None], "label": ["a", None]}, "row 2 is without an image"),
        ({"x": ["a"], "y": ["b"]}, "has no column 'image'"),
    ],
)
def test_parquet_of_other_kinds_is_refused(tmp_path: Path, columns: dict[str, Any], problem: str) -> None:
    assert problem in str(refusal(parquet(tmp_path / "x.parquet", columns)))


def test_a_label_beyond_the_named_classes_is_refused(tmp_path: Path) -> None:
    named = {"label": {"names": ["cat", "dog"]}}
    source = parquet(tmp_path / "x.parquet", {"image": [image(1), image(2)], "label": [0, 2]}, named)
    assert "row 2 of" in str(refusal(source))


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    assert "check that it is a Parquet file" in str(refusal(str(tmp_path / "x.parquet")))


def test_a_table_may_have_a_held_out_table_of_its_own(tmp_path: Path) -> None:
    source = table(tmp_path, "image,label\n" + ROWS)
    heldout = table(tmp_path, "image,label\nrose/1.png,rose\n", name="heldout.csv")
    notes = Notes()
    train, other = load_parts(source, heldout=heldout, holdout=0.2, seed=0, reading=Reading(reporter=notes))
    assert (len(train), len(other), other.classes) == (4, 1, ("rose", "tulip"))
    assert notes.notes == [f"{heldout} lacks 1 of the 2 classes: 'tulip'"]


def test_odd_cells_are_told_and_numbers_without_end_are_names(tmp_path: Path) -> None:
    nul = refusal(table(tmp_path, "image,label\nrose/\0.png,rose\n" + ROWS))
    assert "no file has a path with a zero byte" in str(nul)
    long = load_dataset(table(tmp_path, f"image,label\nrose/1.png,{'9' * 5000}\nrose/2.png,10\n"))
    assert long.classes == ("10", "9" * 5000)
