"""What a registration or a moved alias changes among the routes, and the command that promotes."""

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from corolla import standings
from corolla.commands.adapters import set_alias
from corolla.commands.routes import routes as routes_command
from model_store.format.records import Manifest
from model_store.resolution import named_route
from model_store.resolution.promotion import Standing, after_registration
from model_store.store import Store
from tests.model_store.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Routes of all kinds over `lora:1` and `ssf:1`; `prod` is `lora:1`."""
    world = World(Store.open(str(tmp_path / "store")), tmp_path / "store")
    world.store.adapters.publish(world.draft(), world.adapter(1.0))
    world.store.adapters.publish(world.draft("ssf"), world.adapter(3.0))
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    put(world, "both", "lora, 0.5*ssf")
    put(world, "edge", "lora", follow=True)
    put(world, "live", "lora@prod")
    put(world, "other", "ssf")
    return world


def put(world: World, name: str, text: str, *, follow: bool = False) -> None:
    naming = named_route.check(world.store, task="digits", name=name, text=text, follow=follow)
    world.store.routes.put(naming.route)


def retrain(world: World, name: str = "lora") -> Manifest:
    return world.store.adapters.publish(world.draft(name), world.adapter(2.0))


def test_a_registration_says_what_moves_what_stays_and_how_to_promote(world: World) -> None:
    assert [standing.line for standing in after_registration(world.store, [retrain(world)])] == [
        "alias digits/lora@prod stays at version 1; to promote: corolla adapters alias digits/lora prod 2",
        "route digits/both stays on lora:1, pinned; to promote: "
        "corolla routes put both 'lora:2, 0.5*ssf:1' --task digits",
        "route digits/edge (lora) answers by lora:2",
        "route digits/live stays on lora@prod, an alias",
    ]


def test_versions_registered_together_are_promoted_together(world: World) -> None:
    standings_of = after_registration(world.store, [retrain(world), retrain(world, "ssf")])
    promote = {standing.name: standing.promote for standing in standings_of}
    assert promote["digits/both"] == "corolla routes put both 'lora:2, 0.5*ssf:2' --task digits"
    assert promote["digits/other"] == "corolla routes put other ssf:2 --task digits"


def test_a_first_version_has_nothing_to_say(world: World) -> None:
    assert after_registration(world.store, [retrain(world, "new")]) == []


def test_a_version_that_latest_does_not_mean_moves_nothing(world: World) -> None:
    older = world.store.adapters.manifest("digits", "lora", 1)
    retrain(world)
    moved = [s.name for s in after_registration(world.store, [older]) if s.moves]
    assert moved == []


def test_the_promoting_commands_promote(world: World) -> None:
    manifest = retrain(world)
    for standing in after_registration(world.store, [manifest]):
        if standing.promote:
            words = shlex.split(standing.promote)[3:]
            command = routes_command if "routes" in standing.promote else set_alias
            words = ["put", *words] if command is routes_command else words
            result = CliRunner().invoke(command, [*words, "--store", str(world.folder)])
            assert result.exit_code == 0, result.output
    left = [s.promote for s in after_registration(world.store, [manifest]) if s.promote]
    assert left == []
    assert world.store.routes.get("digits", "both").route == "lora:2, 0.5*ssf:1"


def test_a_moved_alias_says_which_routes_answer_differently(world: World) -> None:
    retrain(world)
    words = ["lora", "prod", "2", "--task", "digits", "--store", str(world.folder)]
    result = CliRunner().invoke(set_alias, words)
    assert result.output.splitlines() == [
        "digits/lora@prod is version 2, was 1",
        "route digits/live (lora@prod) answers by lora:2",
    ]
    again = CliRunner().invoke(set_alias, words)
    assert again.output.splitlines() == ["digits/lora@prod is version 2"]


def test_commands_print_it_and_have_it_as_documents(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = retrain(world)
    standings.say(world.store, [manifest])
    assert "route digits/edge (lora) answers by lora:2" in capsys.readouterr().out.splitlines()
    documents = standings.documents(world.store, [manifest])
    assert Standing(**documents[0]).name == "digits/lora@prod"  # type: ignore[arg-type]


def test_a_damaged_route_is_passed_over(world: World) -> None:
    (world.folder / "routes" / "digits" / "torn").write_text("{")
    assert len(after_registration(world.store, [retrain(world)])) == 4
