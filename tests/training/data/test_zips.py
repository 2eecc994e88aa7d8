import struct
import zipfile
from pathlib import Path

import pytest

from tests.training.data.files import FLOWERS, SMALL, folder, image, refusal, values, zipped
from tests.training.run.notes import Notes
from training.data.pixels import load_pixels
from training.data.reading import Reading
from training.data.sources import load_dataset


def packed(path: Path, *entries: tuple[str | bytes, int], extra: bytes = b"") -> str:
    """A zip whose entries are named exactly so; names in bytes are in an encoding that is not declared."""
    placeholders = {}
    with zipfile.ZipFile(path, "w") as archive:
        for place, (name, value) in enumerate(entries):
            info = zipfile.ZipInfo("x")
            info.filename = name if isinstance(name, str) else str(place).ljust(len(name), "_")
            info.extra = extra
            archive.writestr(info, image(value))
            if isinstance(name, bytes):
                placeholders[info.filename.encode()] = name
    data = path.read_bytes()
    for placeholder, name in placeholders.items():
        data = data.replace(placeholder, name)
    path.write_bytes(data)
    return str(path)


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
    assert "rose/1.png: the file cannot be read (Bad CRC-32" in str(refusal(source))


@pytest.mark.parametrize(
    "name", ["../a/1.png", "/a/1.png", "a/../../1.png", "a\\..\\..\\1.png", "C:\\a\\1.png"]
)
def test_a_zip_with_an_unsafe_path_is_refused(tmp_path: Path, name: str) -> None:
    assert "unsafe path" in str(refusal(zipped(tmp_path / "x.zip", {**FLOWERS, name: 1})))


def test_a_zip_is_read_from_many_threads(tmp_path: Path) -> None:
    files = {f"{'ab'[index % 2]}/{index:03}.png": index % 256 for index in range(200)}
    dataset = load_dataset(zipped(tmp_path / "x.zip", files))
    assert load_pixels(dataset, SMALL)[:, 0, 0, 0].tolist() == [*range(0, 200, 2), *range(1, 200, 2)]


# How zips name their files


def test_backslashes_and_dots_in_front_are_not_part_of_a_path(tmp_path: Path) -> None:
    for place, name in enumerate((r"sets\{}", r".\sets\{}", "./sets/{}", "sets//{}")):
        entries = [(name.format(f"{c}/{i}.png".replace("/", name[-3])), i) for c in "ab" for i in range(2)]
        source = packed(tmp_path / f"{place}.zip", *entries)
        assert str(refusal(source)).endswith(f"write {source}::sets")
        assert values(load_dataset(f"{source}::sets")) == [0, 1, 0, 1]
        assert values(load_dataset(rf"{source}::.\sets")) == [0, 1, 0, 1]


def test_a_zip_of_both_kinds_of_slashes_is_read_whole(tmp_path: Path) -> None:
    entries = [(r"sets\a\1.png", 1), ("sets/a/2.png", 2), ("sets/b/1.png", 3), (r"sets\b\2.png", 4)]
    dataset = load_dataset(packed(tmp_path / "mixed.zip", *entries) + "::sets")
    assert values(dataset) == [1, 2, 3, 4]
    unpacked = {name.replace("\\", "/"): value for name, value in entries}
    assert dataset.digest == load_dataset(folder(tmp_path, unpacked) + "/sets").digest


def test_two_files_of_one_path_are_told(tmp_path: Path) -> None:
    source = packed(tmp_path / "x.zip", ("a/1.png", 1), ("b/1.png", 2), (r"a\1.png", 3))
    dataset = load_dataset(source)
    assert values(dataset) == [3, 2]
    assert dataset.left_out == {"replaced by a later file of the same path": 1}


def test_names_in_utf_8_that_is_not_declared_are_read_as_such(tmp_path: Path) -> None:
    source = packed(tmp_path / "x.zip", ("Müll/1.png".encode(), 1), ("Mu\u0308sli/1.png".encode(), 2))
    assert load_dataset(source).classes == ("Müll", "Müsli")


def test_a_name_in_the_extra_field_counts(tmp_path: Path) -> None:
    name = "Müll/1.png".encode()
    extra = struct.pack("<HHBI", 0x7075, 5 + len(name), 1, 0) + name
    source = packed(tmp_path / "x.zip", (b"M\xfcll/1.png", 1), ("b/1.png", 2), extra=extra)
    assert load_dataset(source).classes == ("Müll", "b")


def test_names_of_an_old_encoding_are_told(tmp_path: Path) -> None:
    notes = Notes()
    source = packed(tmp_path / "x.zip", ("Müll/1.png".encode("cp437"), 1), ("b/1.png", 2))
    assert load_dataset(source, reading=Reading(reporter=notes)).classes == ("Müll", "b")
    assert notes.notes == [f"{source} does not say how its names are written; 'Müll/1.png' may be wrong"]


def test_a_link_in_a_zip_is_left_out(tmp_path: Path) -> None:
    source = zipped(tmp_path / "x.zip", FLOWERS)
    with zipfile.ZipFile(source, "a") as archive:
        link = zipfile.ZipInfo("rose/3.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "../tulip/1.png")
    assert load_dataset(source).left_out == {"a link inside the zip": 1}


def test_a_folder_in_a_zip_is_found_in_either_spelling(tmp_path: Path) -> None:
    source = zipped(tmp_path / "x.zip", FLOWERS, "Mu\u0308ll/")
    assert values(load_dataset(f"{source}::M\u00fcll")) == [10, 20, 30, 40]


def test_images_in_a_zip_are_known_by_content(tmp_path: Path) -> None:
    files: dict[str, int | bytes] = {"a/1": 1, "a/2.dat": 2, "b/1.jfif": image(3, "PNG"), "b/notes": b"text"}
    dataset = load_dataset(zipped(tmp_path / "x.zip", files))
    assert values(dataset) == [1, 2, 3]
    assert dataset.left_out == {"not an image": 1}
