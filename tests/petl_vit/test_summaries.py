"""What is said of the methods without importing them."""

from pathlib import Path

import pytest

from petl_vit import methods, summaries
from petl_vit.errors import NotFound


def test_the_table_lists_the_methods_that_are_there() -> None:
    assert summaries.names() == methods.names()
    assert [setting.name for setting in summaries.get("lora").settings] == [*methods.get("lora").model_fields]
    assert not summaries.get("soup").trained


def test_an_unknown_method_names_near_ones() -> None:
    with pytest.raises(NotFound, match="there is no method 'lorra'; did you mean lora"):
        summaries.get("lorra")


def test_a_table_of_other_files_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = summaries.Table.model_validate_json(summaries.TABLE.read_bytes())
    stale = tmp_path / "summaries.json"
    stale.write_text(table.model_copy(update={"files": "0" * 64, "methods": ()}).model_dump_json())
    monkeypatch.setattr(summaries, "TABLE", stale)

    assert list(summaries.summaries.__wrapped__()) == [method.name for method in methods.registered()]
