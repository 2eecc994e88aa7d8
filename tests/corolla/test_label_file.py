"""Files of labels: what is read of them, and how a wrong line is named."""

from datetime import UTC, datetime

import pytest

from corolla.label_file import Line, read
from petl_vit.errors import InvalidInput

SOURCES = ("gold", "user", "downstream", "implicit")


def lines(text: str) -> list[Line]:
    return read(text.encode(), "labels", SOURCES)


def test_a_csv_names_classes_in_every_way() -> None:
    found = lines(
        "prediction_id,class_name,class_index,any_of,unknown,source,revision,labelled_at\n"
        "a,cat,,,,,,\n"
        "b,,3,,,gold,2,2026-11-26T18:30:00Z\n"
        "\n"
        "c,,,cat|wild cat,,,,\n"
        'd,"big, cat",,,no,,,\n'
        "e,,,,yes,,,\n"
    )

    assert [(line.number, line.prediction_id, line.truth) for line in found] == [
        (2, "a", "cat"),
        (3, "b", 3),
        (5, "c", ["cat", "wild cat"]),
        (6, "d", "big, cat"),
        (7, "e", None),
    ]
    assert (found[1].source, found[1].revision) == ("gold", 2)
    assert found[1].labelled_at == datetime(2026, 11, 26, 18, 30, tzinfo=UTC)
    assert (found[0].source, found[0].revision, found[0].labelled_at) == (None, None, None)


def test_json_lines_say_the_same() -> None:
    found = lines(
        '{"prediction_id": "a", "class_name": "cat"}\n\n'
        '{"prediction_id": "b", "any_of": ["cat", 3], "source": null}\n'
        '{"prediction_id": "c", "unknown": true}\n'
        '{"prediction_id": "d", "class_index": 0, "unknown": false, "revision": 1}\n'
    )

    assert [(line.number, line.truth) for line in found] == [(1, "cat"), (3, ["cat", 3]), (4, None), (5, 0)]
    assert found[3].revision == 1


@pytest.mark.parametrize("mark", ["\t", ";"])
def test_columns_may_be_divided_as_spreadsheets_do(mark: str) -> None:
    text = f"\ufeffprediction_id{mark}class_name\r\na{mark}cat\r\n"
    assert [line.truth for line in lines(text)] == ["cat"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "does not name the columns"),
        ("prediction_id,class_name\n", "has no label"),
        ("a,cat\n", "no label has 'a'"),
        ("prediction_id,clas_name\na,cat\n", "did you mean class_name?"),
        ("prediction_id,class_name\na,cat,dog\n", "labels:2: not as many columns"),
        ("prediction_id,class_name\na\n", "labels:2: not as many columns"),
        ('prediction_id,class_name\na,"cat\n', "labels:2: not CSV"),
        ("prediction_id,class_name\n,cat\n", "labels:2: no prediction_id"),
        ("prediction_id,class_name\na,\n", "labels:2: the label says nothing of the class"),
        ("prediction_id,class_name,class_index\na,cat,3\n", "has class_name and class_index"),
        ("prediction_id,class_index\na,three\n", "class_index 'three' cannot be read"),
        ("prediction_id,class_index\na,-1\n", "write a whole number from 0"),
        ("prediction_id,class_name,source\na,cat,golden\n", "did you mean gold?"),
        ("prediction_id,class_name,revision\na,cat,4294967296\n", "revision '4294967296' cannot be read"),
        ("prediction_id,class_name,labelled_at\na,cat,yesterday\n", "write a time such as"),
        ("prediction_id,unknown\na,perhaps\n", "write true or false"),
        ('{"prediction_id": "a"', "labels:1: not JSON"),
        ('{"prediction_id": "a", "class_name": "cat"}\n[]\n', "labels:2: not an object"),
        ('{"prediction_id": "a", "label": "cat"}\n', "labels:1: no label has 'label'"),
        ('{"prediction_id": "a", "class_index": true}\n', "class_index 'True' cannot be read"),
        ('{"prediction_id": "a", "any_of": 3}\n', "write a list of names or numbers"),
    ],
)
def test_a_wrong_line_is_named_with_what_to_do(text: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        lines(text)
    assert problem in str(caught.value)
    assert caught.value.field == "file"


def test_a_file_that_is_not_text_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not UTF-8"):
        read(b"\xff\xfe\x00", "labels", SOURCES)
