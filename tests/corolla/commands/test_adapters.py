import pytest

from corolla import command
from corolla.commands.adapters import adapters
from corolla.commands.routes import routes
from petl_vit.errors import Conflict, InvalidInput, NotFound
from tests.corolla.runner import document, printed
from tests.model_store.world import World


def test_an_empty_store_says_what_to_type_next(stored: World) -> None:
    assert "corolla train" in printed(adapters, "list", store=stored.folder)
    assert document(adapters, "list", store=stored.folder) == []


def test_adapters_are_listed_with_their_aliases_and_metrics(published: World) -> None:
    store = published.folder
    table = printed(adapters, "list", store=store)
    assert "latest=1" in table
    assert "0.900" in table
    assert "fp32" in table
    assert [item["name"] for item in document(adapters, "list", store=store)] == ["lora", "ssf"]


def test_a_damaged_manifest_is_named_after_all_other_adapters_are_listed(
    published: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (published.folder / "adapters" / "digits" / "lora" / "1" / "manifest.json").write_text("{")

    code = command.run(["adapters", "list", "--store", str(published.folder)])

    said = capsys.readouterr()
    assert code == 2
    assert "ssf" in said.out
    assert "adapters/digits/lora/1/manifest.json" in said.err


@pytest.mark.parametrize("listing", ["adapters", "tasks", "routes"])
@pytest.mark.parametrize("kind", ["aliases", "tasks", "routes"])
def test_one_damaged_file_hides_nothing_else_in_a_listing(
    published: World, capsys: pytest.CaptureFixture[str], kind: str, listing: str
) -> None:
    store = published.folder
    printed(routes, "put", "fine", "ssf", store=store)
    printed(routes, "put", "gone", "lora", store=store)
    published.store.tasks.put(published.spec("other"), published.head(2.0))
    damaged = {
        "aliases": store / "aliases/digits/lora/latest",
        "tasks": next(store.glob("tasks/other/*/task.json")),
        "routes": store / "routes/digits/gone",
    }[kind]
    damaged.write_text("{")

    command.run([listing, "list", "--store", str(store)])

    said = capsys.readouterr()
    assert {"adapters": "ssf", "tasks": "digits", "routes": "fine"}[listing] in said.out
    if listing == kind or (listing, kind) == ("adapters", "aliases"):
        assert str(damaged.relative_to(store)) in said.out + said.err


def test_an_alias_is_set_and_shown(published: World) -> None:
    store = published.folder
    assert "digits/lora@prod is version 1" in printed(adapters, "alias", "lora", "prod", "1", store=store)
    assert document(adapters, "show", "digits/lora@prod", store=store)["aliases"] == ["latest", "prod"]
    published.store.adapters.publish(published.draft(), published.adapter(3.0))
    assert printed(adapters, "alias", "lora", "prod", "2", store=store).endswith("is version 2, was 1\n")
    assert document(adapters, "alias", "digits/lora", "prod", "1", store=store)["before"] == 2
    with pytest.raises(Conflict):
        printed(adapters, "alias", "digits/lora", "prod", "1", "--expected", "2", store=store)
    with pytest.raises(NotFound, match="did you mean lora"):
        printed(adapters, "show", "lorra", store=store)
    with pytest.raises(InvalidInput, match="not one adapter"):
        printed(adapters, "show", "lora, ssf", store=store)


def test_a_task_must_be_named_where_the_store_has_several(published: World) -> None:
    published.store.tasks.put(published.spec("letters"), published.head(1.0))
    with pytest.raises(InvalidInput, match="add one of digits, letters"):
        printed(adapters, "show", "lora", store=published.folder)
    assert document(adapters, "show", "lora", "--task", "digits", store=published.folder)["name"] == "lora"
