"""What a server says of changed names, and what it records of those that nobody recorded."""

import json
import logging

import pytest

from model_store.format import keys
from model_store.format.records import Draft
from model_store.resolution import named_route
from serving.registry.catalog import Catalog
from serving.registry.changes import GRACE_S, Changes, say_notes
from tests.serving.world import World

PROD = keys.alias("shapes", "lora", "prod")


class Watched:
    """A catalog whose changes are said; `lines` gives what was said since it was last asked."""

    def __init__(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        self.world, self.catalog = world, Catalog(world.store, world.backbone.digest)
        self.now, self._caplog = 0.0, caplog
        self.changes = Changes(world.store, clock=lambda: self.now)

    def lines(self) -> list[str]:
        self._caplog.clear()
        self.changes.say(self.catalog.refresh())
        self.changes.record()
        return [record.getMessage() for record in self._caplog.records]

    def put(self, name: str, text: str, **options: object) -> None:
        naming = named_route.check(
            self.world.store,
            task="shapes",
            name=name,
            text=text,
            **options,  # type: ignore[arg-type]
        )
        self.world.store.routes.put(naming.route, by="ann@laptop")


@pytest.fixture
def watched(own_world: World, caplog: pytest.LogCaptureFixture) -> Watched:
    caplog.set_level(logging.INFO, "serving.registry.changes")
    return Watched(own_world, caplog)


def test_a_route_put_changed_and_deleted_is_one_line_each(watched: Watched) -> None:
    watched.put("live", "lora")
    assert watched.lines() == ["route shapes/live: nothing -> lora:2 at temperature 1.5, by ann@laptop"]
    watched.put("live", "ssf, lora:1")
    assert watched.lines() == ["route shapes/live: lora:2 at temperature 1.5 -> ssf:1, lora:1, by ann@laptop"]
    watched.world.store.routes.delete("shapes", "live", by="bob@desk")
    assert watched.lines() == ["route shapes/live: ssf:1, lora:1 -> nothing, by bob@desk"]
    assert watched.lines() == []


def test_a_moved_alias_is_one_line_with_the_routes_that_it_moves(watched: Watched) -> None:
    watched.put("live", "lora@prod", temperature=3.0)
    watched.lines()
    watched.world.store.adapters.set_alias("shapes", "lora", "prod", 2, by="ann@laptop")
    (line,) = watched.lines()
    assert line.startswith(
        "shapes/lora@prod: 1 -> 2, by ann@laptop; moves route shapes/live: lora:1 at temperature 3 -> "
        "lora:2 at temperature 1.5 (temperature 3 is for shapes/lora:1 and is not applied: shapes/lora:2"
    )


def test_an_alias_that_no_request_used_is_one_line_too(watched: Watched) -> None:
    watched.world.store.adapters.set_alias("shapes", "lora", "prod", 2, by="ann@laptop")
    assert watched.lines() == ["shapes/lora@prod: 1 -> 2, by ann@laptop"]


def test_what_is_written_without_a_change_is_not_said(watched: Watched) -> None:
    adapters = watched.world.store.adapters
    adapters.set_alias("shapes", "lora", "prod", 1)
    manifest = adapters.manifest("shapes", "lora", 2)
    draft = Draft.of(**{name: getattr(manifest, name) for name in Draft.model_fields})
    assert adapters.publish(draft, adapters.load(manifest)).version == 2
    assert watched.lines() == []


def test_retraining_moves_what_follows_and_nothing_that_is_pinned(watched: Watched) -> None:
    watched.put("live", "lora")
    watched.put("edge", "0.5*lora", follow=True)
    watched.lines()
    watched.world.publish("shapes", "lora", seed=77)
    (line,) = watched.lines()
    # `best` is of an older store, and follows.
    assert line.partition(", by ")[0] == "shapes/lora@latest: 2 -> 3"
    assert [part.partition(":")[0] for part in line.split("; moves ")[1:]] == [
        "route shapes/best",
        "route shapes/edge",
    ]


def test_many_changes_at_once_are_not_all_read(watched: Watched) -> None:
    for number in range(103):
        watched.world.store.adapters.set_alias("shapes", "ssf", f"a{number}", 1)
    lines = watched.lines()
    assert len(lines) == 101
    assert lines[-1] == "3 further names have changed"


def test_a_change_by_hand_is_recorded_once_by_all_servers_that_notice_it(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    world = watched.world
    other = Watched(world, caplog)
    for version in (2, 1):
        (world.folder / PROD).write_text(json.dumps({"format_version": 1, "version": version}))
        for server in (watched, other):
            assert f"shapes/lora@prod: {3 - version} -> {version}" in server.lines()
            server.now += GRACE_S / 2
            server.lines()
        for server in (watched, other):
            server.now += GRACE_S
            server.lines()
    records = world.store.history.of(PROD)
    assert [(r.before, r.after) for r in records] == [("", "1"), ("1", "2"), ("2", "1")]
    assert [r.by for r in records[1:]] == ["unknown", "unknown"]
    assert records[1].note.startswith("noticed by a server on ")


def test_a_temperature_changed_by_hand_is_nobodys_who_is_recorded(watched: Watched) -> None:
    watched.put("live", "lora:1, ssf:1", temperature=3.0)
    watched.lines()
    file = watched.world.folder / "routes" / "shapes" / "live"
    file.write_text(file.read_text().replace('"temperature": 3.0', '"temperature": 4.0'))
    assert watched.lines() == [
        "route shapes/live: lora:1, ssf:1 at temperature 3 -> lora:1, ssf:1 at temperature 4"
    ]
    watched.now += 2 * GRACE_S
    watched.lines()
    last = watched.world.store.history.of(keys.route("shapes", "live"))[-1]
    assert (last.before_temperature, last.after_temperature, last.by) == (3.0, 4.0, "unknown")


def test_a_new_task_is_said_and_has_no_history(watched: Watched) -> None:
    task = watched.world.put_task("animals", ("cat", "dog"), watched.world.backbone)
    assert watched.lines() == [f"task animals: nothing -> {task.digest[:12]}"]
    watched.now += 2 * GRACE_S
    watched.lines()
    assert not (watched.world.folder / "history" / "tasks").exists()


def test_a_record_that_comes_late_is_the_only_one(watched: Watched) -> None:
    store = watched.world.store
    (watched.world.folder / PROD).write_text(json.dumps({"format_version": 1, "version": 2}))
    watched.lines()
    store.history.add_alias(PROD, 1, 2, by="ann@laptop")
    watched.now += 2 * GRACE_S
    watched.lines()
    assert [record.by for record in store.history.of(PROD)][1:] == ["ann@laptop"]


def test_a_change_by_hand_that_was_overtaken_is_not_recorded_as_the_last(watched: Watched) -> None:
    store, file = watched.world.store, watched.world.folder / PROD
    for said in (True, False):  # the server has seen the second change when it records, or has not
        file.write_text(json.dumps({"format_version": 1, "version": 2}))
        watched.lines()
        store.adapters.set_alias("shapes", "lora", "prod", 1, by="ann@laptop")
        if said:
            watched.lines()
        watched.now += 2 * GRACE_S
        watched.changes.record()
    assert {record.by for record in store.history.of(PROD)[1:]} == {"ann@laptop"}


def test_a_deleted_file_is_noticed_too(watched: Watched) -> None:
    watched.put("live", "lora")
    watched.lines()
    (watched.world.folder / "routes" / "shapes" / "live").unlink()
    assert watched.lines() == [
        "route shapes/live: lora:2 at temperature 1.5 -> nothing",
    ]
    watched.now += 2 * GRACE_S
    watched.lines()
    last = watched.world.store.history.of(keys.route("shapes", "live"))[-1]
    assert (last.before, last.after, last.by) == ("lora:2", "", "unknown")


def test_a_server_that_starts_says_which_routes_follow_and_which_temperatures_it_does_not_apply(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.put("live", "lora@prod", temperature=3.0)
    watched.world.store.adapters.set_alias("shapes", "lora", "prod", 2)
    watched.catalog.refresh()
    caplog.clear()
    say_notes(watched.catalog)
    following, older, live = (record.getMessage() for record in caplog.records)
    assert following.startswith("training moves the routes shapes/best, which follow `latest`;")
    assert older.startswith("route shapes/best: temperature 2 was stored without the versions")
    assert live.startswith("route shapes/live: temperature 3 is for shapes/lora:1")
