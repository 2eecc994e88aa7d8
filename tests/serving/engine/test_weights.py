from pathlib import Path

import pytest

from petl_vit.errors import InvalidInput
from serving.engine.weights import TaskWeights


def weights(folder: Path, text: str) -> TaskWeights:
    file = folder / "weights.toml"
    file.write_text(text)
    return TaskWeights.read(str(file))


def test_a_task_has_the_weight_of_its_name_else_of_the_first_pattern_else_1(tmp_path: Path) -> None:
    found = weights(tmp_path, '[tasks]\n"birds-*" = 2\n"*-north" = 3\nbirds-red = 0.5\n')

    said = {name: found.party(name).weight for name in ("birds-red", "birds-north", "fish-north", "fish")}
    assert said == {"birds-red": 0.5, "birds-north": 2, "fish-north": 3, "fish": 1}


def test_without_a_file_all_have_1() -> None:
    assert not TaskWeights.read(None)
    assert TaskWeights.read(None).party("any").weight == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tasks = 3", "tasks is not a table"),
        ("[task]\nbirds = 2", "'task' is not known"),
        ("[tasks]\nbirds = 0", "the weight of 'birds' is 0"),
        ("[tasks]\nbirds = nan", "the weight of 'birds' is nan"),
        ("[tasks]\nbirds = true", "the weight of 'birds' is True"),
        ('[tasks]\nbirds = "2"', "the weight of 'birds' is '2'"),
        ("[tasks]\nbirds = 1e9", "the weight of 'birds' is 1000000000.0"),
        ("[tasks", "is not TOML"),
    ],
)
def test_a_file_that_says_something_that_cannot_be_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as raised:
        weights(tmp_path, text)
    assert raised.value.field == "weights"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: no such file"):
        TaskWeights.read(str(tmp_path / "none.toml"))


def test_names_that_match_no_task_are_told_with_what_they_may_mean(tmp_path: Path) -> None:
    found = weights(tmp_path, "[tasks]\nplnts = 2\nbirds = 1\n")

    assert found.unused(["plants", "birds"]) == ["no task 'plnts' is stored: did you mean plants?"]
