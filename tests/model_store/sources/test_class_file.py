"""Class names come in the order of the head's rows, from text or from the JSON of other tools."""

import json
from pathlib import Path

import pytest

from model_store.sources import class_file
from petl_vit.errors import InvalidInput

NAMES = ("tulip", "Müller", "a b")


@pytest.mark.parametrize(
    "text",
    [
        "tulip\nMüller\n\n a b \n",
        "\ufefftulip\r\nMüller\r\na b",
        json.dumps(NAMES),
        json.dumps({"Müller": 1, "tulip": 0, "a b": 2}),
        json.dumps({"2": "a b", "0": "tulip", "1": "Müller"}),
    ],
    ids=["lines", "byte-order mark", "list", "class_to_idx", "id2label"],
)
def test_names_are_read_in_their_order(tmp_path: Path, text: str) -> None:
    file = tmp_path / "classes"
    file.write_bytes(text.encode())
    assert class_file.read(file) == NAMES


def test_numbers_and_brackets_alone_are_names_of_classes(tmp_path: Path) -> None:
    for text in ("7", "3\n5", "[draft]\n{x}"):
        (tmp_path / "classes").write_text(text)
        assert class_file.read(tmp_path / "classes") == tuple(text.split("\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 0, "b": 2}', "the places in c.json are not 0 to 1, each once"),
        ('{"a": 0, "b": 0}', "the places in c.json are not 0 to 1, each once"),
        ('{"a": {"b": 1}}', "c.json is JSON, but not a list of names .*; write one name a line"),
        ("[[1]]", "c.json is JSON, but not a list of names"),
    ],
)
def test_json_without_an_order_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InvalidInput, match=message):
        class_file.read(tmp_path / "c.json")
