"""How commands print."""

import json

import pytest

from corolla import tables


def listed(capsys: pytest.CaptureFixture[str], *names: str, as_json: bool = False) -> str:
    documents = [{"name": name} for name in names]
    rows = [(name, "x") for name in names]
    tables.listing(documents, as_json, columns=("name", "note"), rows=rows, when_empty="No name yet.")
    return capsys.readouterr().out


def test_records_are_a_table_or_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split() for line in listed(capsys, "a", "b").splitlines()]
    assert lines == [["name", "note"], ["a", "x"], ["b", "x"]]
    assert json.loads(listed(capsys, "a", "b", as_json=True)) == [{"name": "a"}, {"name": "b"}]


def test_no_records_say_what_to_do_and_are_an_empty_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys) == "No name yet.\n"
    assert listed(capsys, as_json=True) == "[]\n"


def test_cells_are_plain_text_as_long_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[bold]" + "long-" * 40 + ":smile:"
    assert name in listed(capsys, name)


def test_a_record_is_a_line_for_each_field_or_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"name": "é", "classes": ["a", "b"]}
    tables.show(record, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [["name", "é"], ["classes", '["a",', '"b"]']]
    tables.show(record, as_json=True)
    assert capsys.readouterr().out == '{"name": "é", "classes": ["a", "b"]}\n'


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0.0 KiB"), (2**20, "1.0 MiB"), (3 * 2**30, "3,072.0 MiB")]
)
def test_sizes_are_in_kib_or_mib(n_bytes: int, text: str) -> None:
    assert tables.size(n_bytes) == text
