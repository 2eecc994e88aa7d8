from pathlib import Path

import pytest

from corolla.commands.adapters import adapters
from corolla.commands.tasks import tasks
from petl_vit.errors import Conflict, InvalidInput, NotFound
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


def test_versions_of_a_task_are_shown_and_adapters_say_which_they_belong_to(published: World) -> None:
    store = published.folder
    published.store.tasks.refit(published.task, published.head(1.0), {"images": 12})
    assert "12 images" in printed(tasks, "list", store=store)
    assert [one["version"] for one in document(tasks, "list", store=store)] == [2]
    assert document(tasks, "show", "digits", store=store)["version"] == 2
    first = document(tasks, "show", "digits", "--version", "1", store=store)
    assert first["digest"] == published.task.digest
    with pytest.raises(NotFound, match="no version 3; there is 1, 2"):
        printed(tasks, "show", "digits", "--version", "3", store=store)
    listed = document(adapters, "list", store=store)
    assert {(one["name"], one["task_version"]) for one in listed} == {("lora", 1), ("ssf", 1)}
    assert document(adapters, "show", "lora", store=store)["task_version"] == 1
    assert "task version" in printed(adapters, "list", store=store)


def test_a_task_is_deleted_with_what_belongs_to_it(published: World) -> None:
    store = published.folder
    published.store.tasks.refit(published.task, published.head(1.0), {})
    newest = document(tasks, "delete", "digits", "--version", "2", store=store)
    assert newest == {"deleted": ["digits version 2"]}
    with pytest.raises(Conflict, match="digits/lora:1, digits/ssf:1 belong to it"):
        printed(tasks, "delete", "digits", "--yes", store=store)
    with pytest.raises(InvalidInput, match="add --yes"):
        printed(tasks, "delete", "digits", "--with-adapters", store=store)
    said = printed(tasks, "delete", "digits", "--with-adapters", "--yes", store=store)
    assert said.splitlines() == [
        "digits version 1 is deleted",
        "digits/lora:1 is deleted",
        "digits/ssf:1 is deleted",
    ]
    assert document(tasks, "list", store=store) == []


def test_a_task_on_two_backbones_asks_which(published: World) -> None:
    other = published.store.backbones.put("tiny.two", CONFIG, published.weights(2.0), "random")
    published.store.tasks.put(
        published.spec().model_copy(update={"backbone_digest": other.digest}), published.head(0.0)
    )
    with pytest.raises(InvalidInput, match="on 2 backbones"):
        printed(tasks, "show", "digits", store=published.folder)
    assert document(tasks, "show", "digits", "--backbone", "tiny.two", store=published.folder)
