from pathlib import Path

import pytest

from corolla.commands.tasks import tasks
from petl_vit.errors import InvalidInput
from tests.corolla.runner import document, printed
from tests.model_store.world import CONFIG, World


def test_an_empty_store_says_what_to_type_next(tmp_path: Path) -> None:
    assert "corolla train" in printed(tasks, "list", store=tmp_path)
    assert document(tasks, "list", store=tmp_path) == []


def test_tasks_are_listed_and_shown(published: World) -> None:
    store = published.folder
    assert "digits" in printed(tasks, "list", store=store)
    assert document(tasks, "show", "digits", store=store)["spec"]["classes"] == ["zero", "one"]
    assert "zero" in printed(tasks, "show", "digits", "--backbone", "tiny.one", store=store)


def test_a_task_on_two_backbones_asks_which(published: World) -> None:
    other = published.store.backbones.put("tiny.two", CONFIG, published.weights(2.0), "random")
    published.store.tasks.put(
        published.spec().model_copy(update={"backbone_digest": other.digest}), published.head(0.0)
    )
    with pytest.raises(InvalidInput, match="on 2 backbones"):
        printed(tasks, "show", "digits", store=published.folder)
    assert document(tasks, "show", "digits", "--backbone", "tiny.two", store=published.folder)
