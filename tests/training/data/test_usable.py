"""Images that cannot be used: named all at once, or skipped and counted."""

import sys
from pathlib import Path

import pytest

from petl_vit.errors import InvalidInput
from tests.training.data.files import FLOWERS, folder, image, refusal, values
from tests.training.run.notes import Notes
from training.data.reading import Reading
from training.data.sources import load_dataset, load_parts

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
BAD: dict[str, int | bytes] = {
    "rose/3.png": b"no image",
    "rose/4.png": b"",
    "rose/5.jpg": image(1, "JPEG", 400)[:-200],
    "tulip/6.png": image(1, width=4000),
}


def test_all_bad_images_are_named_at_once_with_their_reasons(tmp_path: Path) -> None:
    source = folder(tmp_path, FLOWERS | BAD)
    with pytest.raises(InvalidInput) as caught:
        load_dataset(source, reading=Reading(max_pixels=10_000))
    said = str(caught.value)
    assert said.startswith(f"data: 4 of 8 images in {source} cannot be used: ")
    for reason in (
        "rose/3.png: the bytes are not an image of a known format;",
        "rose/4.png: the image is empty (0 bytes);",
        "rose/5.jpg: the image cannot be decoded (",
        "tulip/6.png: the image is too large (4000 x 5 = 20,000 pixels, more than the limit of 10,000)",
    ):
        assert reason in said
    assert said.endswith("or go on without them by --skip-bad")


def test_many_bad_images_are_counted_and_some_are_named(tmp_path: Path) -> None:
    bad: dict[str, int | bytes] = {f"rose/bad-{i:02}.png": b"no image" for i in range(30)}
    said = str(refusal(folder(tmp_path, FLOWERS | bad)))
    assert "30 of 34 images" in said
    assert said.count("bad-") == 8
    assert "; and 22 more; " in said


def test_bad_images_are_skipped_and_counted_by_reason(tmp_path: Path) -> None:
    notes = Notes()
    source = folder(tmp_path / "bad", FLOWERS | BAD)
    dataset = load_dataset(source, reading=Reading(max_pixels=10_000, skip_bad=True, reporter=notes))
    assert values(dataset) == [10, 20, 30, 40]
    assert dataset.left_out == {
        "the bytes are not an image of a known format": 1,
        "the image is empty": 1,
        "the image cannot be decoded": 1,
        "the image is too large": 1,
    }
    assert notes.stages == ["checking images"]
    assert notes.notes[0].startswith(
        f"left out of {source}: the bytes are not an image of a known format: 1 (rose/3.png);"
    )
    assert dataset.digest == load_dataset(folder(tmp_path / "good", FLOWERS)).digest


def test_a_class_of_bad_images_only_is_refused_all_the_same(tmp_path: Path) -> None:
    source = folder(tmp_path, FLOWERS | {"violet/1.png": b"no image"})
    with pytest.raises(InvalidInput, match=r"the class 'violet' of .* has no images \(left out: the bytes"):
        load_dataset(source, reading=Reading(skip_bad=True))


def test_held_out_images_are_checked_too(tmp_path: Path) -> None:
    train, heldout = folder(tmp_path / "a", FLOWERS), folder(tmp_path / "b", FLOWERS | BAD)
    with pytest.raises(InvalidInput, match="3 of 8 images") as caught:
        load_parts(train, heldout=heldout, holdout=0.2, seed=0)
    assert caught.value.field == "heldout"
    parts = load_parts(train, heldout=heldout, holdout=0.2, seed=0, reading=Reading(skip_bad=True))
    assert [len(part) for part in parts] == [4, 5]


def test_heic_without_its_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    said = str(refusal(folder(tmp_path, FLOWERS | {"rose/5.heic": HEIC, "rose/6.HEIC": HEIC})))
    assert "2 of 6 images" in said
    assert "rose/5.heic: the image is a HEIC file, which needs pillow-heif" in said
    assert said.count("pip install 'corolla[heic]'") == 1


# Names of classes and files


def test_class_folders_get_one_spelling_and_the_same_digest(tmp_path: Path) -> None:
    mac = load_dataset(folder(tmp_path / "mac", {"Mu\u0308ll/1.png": 1, "b/1.png": 2}))
    linux = load_dataset(folder(tmp_path / "linux", {"M\u00fcll/1.png": 1, "b/1.png": 2}))
    assert mac.classes == linux.classes == ("M\u00fcll", "b")
    assert mac.digest == linux.digest


@pytest.mark.parametrize(("one", "two"), [("M\u00fcll", "Mu\u0308ll"), ("cat", "cat ")])
def test_two_folders_of_one_name_are_refused(tmp_path: Path, one: str, two: str) -> None:
    said = str(refusal(folder(tmp_path, {f"{one}/1.png": 1, f"{two}/1.png": 2, "b/1.png": 3})))
    assert f"{one!a} and {two!a}" in said or f"{two!a} and {one!a}" in said
    assert f"are both named {one!r}; put their images into one of them, or rename one" in said


def test_classes_that_differ_in_capitals_are_told(tmp_path: Path) -> None:
    notes = Notes()
    source = folder(tmp_path, {"Cat/1.png": 1, "cat/1.png": 2, "dog/1.png": 3})
    assert load_dataset(source, reading=Reading(reporter=notes)).classes == ("Cat", "cat", "dog")
    assert notes.notes == [f"the classes 'Cat', 'cat' of {source} differ in capitals only"]


def test_a_class_whose_name_is_not_utf_8_is_refused_and_an_image_is_not(tmp_path: Path) -> None:
    source = folder(tmp_path / "set", FLOWERS | {"rose/\udce9.png": 1})
    assert len(load_dataset(source)) == 5
    said = str(refusal(folder(tmp_path / "set", {"caf\udce9/1.png": 1})))
    assert r"the name caf\xe9 is not UTF-8, so it cannot be recorded; rename it" in said


def test_a_source_whose_name_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    said = str(refusal(folder(tmp_path / "fotos-\udce9", FLOWERS)))
    assert r"fotos-\xe9 is not UTF-8" in said
