"""corolla.v1.Admin over a real channel, with a real adapter cache behind it."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from petl_vit.errors import CorollaError
from protos.corolla.v1 import admin_pb2 as pb
from serving.client.admin import AdminClient
from serving.client.blocking import Client
from serving.client.messages import RequestFailed
from tests.serving.world import DEADLINE_S, WAIT_S, Running, World, encoded, until

LONG = "x" * 10_000


class Ours(Running):
    """A server over a store that the test may change, and its clients."""

    client_: Client
    admin: AdminClient

    def classify(self, route: str, seed: int = 1, task: str = "shapes") -> Any:
        return self.client_.classify([encoded(seed)], route=route, task=task, probabilities=True)

    def memory(self) -> dict[str, pb.AdapterState]:
        return {state.name: state for state in self.admin.list_adapters(resident_only=True).adapters}


@pytest.fixture
def ours(own_world: World) -> Iterator[Ours]:
    with Ours(own_world.settings(refresh_s=0.01)) as running, running.client() as client:
        running.client_, running.admin = client, AdminClient(client)
        yield running


@pytest.fixture(scope="module")
def admin(running: Running) -> Iterator[AdminClient]:
    """Of a server that is shared, for calls that change nothing."""
    with running.client() as client:
        yield AdminClient(client)


def refused(code: str, field: str | None, call: Any, *words: object, **options: object) -> str:
    with pytest.raises(RequestFailed) as caught:
        call(*words, **options)
    assert (caught.value.code, caught.value.named_field) == (code, field), str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert len(str(caught.value)) < 1_500
    return str(caught.value)


# Adapters


def test_a_loaded_adapter_is_listed_with_its_memory_and_answers(ours: Ours) -> None:
    assert ours.memory() == {}
    loaded = ours.admin.load_adapter("lora@prod", task="shapes")
    found = ours.memory()["shapes/lora:1"]

    assert (loaded.name, loaded.method, list(loaded.aliases)) == ("shapes/lora:1", "lora", ["prod"])
    assert (found.registered, found.in_slot, found.stored, found.pinned) == (True, True, True, False)
    assert found.registered_bytes > 0
    assert found.in_use == 0
    assert found.last_used.seconds > 1_700_000_000
    assert ours.classify("lora@prod").adapters[0].digest == found.digest


def test_totals_are_what_the_gauges_show(ours: Ours) -> None:
    for name in ("lora:1", "lora:2", "ssf"):
        ours.admin.load_adapter(name, task="shapes")
    listing = ours.admin.list_adapters()

    registered = [state for state in listing.adapters if state.registered]
    assert listing.registered.adapters == len(registered) == 3
    assert listing.registered.bytes == sum(state.registered_bytes for state in registered)
    assert listing.registered.bytes == ours.value("corolla_registered_bytes")
    assert listing.registered.adapters == ours.value("corolla_registered_adapters")
    assert listing.registered.budget_bytes == 2 * 2**30
    assert listing.slots.budget_bytes == 0, "on a CPU a slot takes no memory of its own"
    assert listing.adapters[0].name == "shapes/ssf:1", "most recently used first"


def test_an_unloaded_adapter_frees_what_it_says_and_is_loaded_again_when_asked_for(ours: Ours) -> None:
    first = list(ours.classify("lora").results[0].probabilities)
    before = ours.value("corolla_registered_bytes")
    unloaded = ours.admin.unload_adapter("lora", task="shapes")

    assert unloaded.name == "shapes/lora:2"
    assert unloaded.freed_bytes > 0
    assert before - ours.value("corolla_registered_bytes") == unloaded.freed_bytes
    assert "shapes/lora:2" not in ours.memory()
    assert list(ours.classify("lora").results[0].probabilities) == pytest.approx(first, abs=1e-6)
    assert "shapes/lora:2" in ours.memory()


def test_a_pinned_adapter_stays_until_it_is_unpinned(ours: Ours) -> None:
    assert ours.admin.pin_adapter("shapes/lora").pinned
    refused("ABORTED", "adapter", ours.admin.unload_adapter, "shapes/lora")
    assert ours.memory()["shapes/lora:2"].pinned

    assert not ours.admin.unpin_adapter("shapes/lora").pinned
    assert ours.admin.unload_adapter("shapes/lora").freed_bytes > 0
    assert ours.memory() == {}


def test_a_damaged_adapter_is_refused_and_the_others_go_on(ours: Ours, own_world: World) -> None:
    file = own_world.adapter_file("shapes", "ssf", 1)
    data = file.read_bytes()
    file.write_bytes(data[:-4] + b"\0\1\2\3")

    for call in (ours.admin.load_adapter, ours.admin.pin_adapter):
        said = refused("DATA_LOSS", "adapters/shapes/ssf/1/adapter.safetensors", call, "shapes/ssf")
        assert "shapes/ssf:1 cannot be loaded: digest" in said
    assert ours.memory() == {}
    assert ours.classify("lora").route == "lora:2"
    file.write_bytes(data)
    assert ours.admin.load_adapter("shapes/ssf").registered


@pytest.mark.parametrize("call", ["load_adapter", "unload_adapter", "pin_adapter", "unpin_adapter"])
@pytest.mark.parametrize(
    ("adapter", "code", "field"),
    [
        ("", "INVALID_ARGUMENT", "adapter"),
        (LONG, "INVALID_ARGUMENT", "adapter"),
        ("lora, ssf", "INVALID_ARGUMENT", "adapter"),
        ("lorra", "NOT_FOUND", "adapter"),
        ("lora:9", "NOT_FOUND", "version"),
        ("lora@prd", "NOT_FOUND", "alias"),
        ("shaps/lora", "NOT_FOUND", "task"),
    ],
)
def test_what_is_not_one_adapter_has_its_status_and_field(
    admin: AdminClient, call: str, adapter: str, code: str, field: str
) -> None:
    refused(code, field, getattr(admin, call), adapter, task="shapes")
    refused("INVALID_ARGUMENT", "task", getattr(admin, call), "lora")
    refused("INVALID_ARGUMENT", "task", getattr(admin, call), "lora", task=LONG)


def test_what_is_not_in_memory_is_unloaded_and_unpinned_already(ours: Ours) -> None:
    unloaded = ours.admin.unload_adapter("shapes/lora:1")
    assert (unloaded.name, unloaded.freed_bytes, unloaded.was_loaded) == ("shapes/lora:1", 0, False)
    state = ours.admin.unpin_adapter("shapes/lora:1")
    assert (state.name, state.registered, state.pinned) == ("shapes/lora:1", False, False)
    ours.admin.load_adapter("shapes/lora:1")
    assert ours.admin.unload_adapter("shapes/lora:1").was_loaded


# Aliases


def test_a_set_alias_is_followed_by_the_next_request_and_by_other_servers(
    ours: Ours, own_world: World
) -> None:
    with Running(own_world.settings(refresh_s=0.01)) as other, other.client() as client:
        assert client.classify([encoded(1)], route="lora@prod", task="shapes").route == "lora:1"
        assert ours.classify("lora@prod").route == "lora:1"
        done = ours.admin.set_alias("lora", "prod", 2, task="shapes", expected=1)

        assert (done.alias.adapter, done.alias.alias, done.alias.version) == ("shapes/lora", "prod", 2)
        assert done.previous_version == 1
        assert ours.classify("lora@prod").route == "lora:2"
        until(lambda: client.classify([encoded(1)], route="lora@prod", task="shapes").route == "lora:2")
    assert ("shapes/lora", "prod", 2) in [
        (a.adapter, a.alias, a.version) for a in ours.admin.list_aliases(task="shapes").aliases
    ]


@pytest.mark.parametrize(
    ("adapter", "alias", "version", "code", "field"),
    [
        ("", "prod", 1, "INVALID_ARGUMENT", "adapter"),
        ("lora:1", "prod", 1, "INVALID_ARGUMENT", "adapter"),
        ("lora", "", 1, "INVALID_ARGUMENT", "alias"),
        ("lora", LONG, 1, "INVALID_ARGUMENT", "alias"),
        ("lora", "prod", 0, "INVALID_ARGUMENT", "version"),
        ("lora", "prod", 9, "NOT_FOUND", "version"),
        ("lorra", "prod", 1, "NOT_FOUND", "adapter"),
    ],
)
def test_a_bad_alias_has_its_status_and_field(
    admin: AdminClient, world: World, adapter: str, alias: str, version: int, code: str, field: str
) -> None:
    refused(code, field, admin.set_alias, adapter, alias, version, task="shapes")
    assert world.store.adapters.aliases("shapes", "lora") == {"latest": 2, "prod": 1}


def test_an_alias_that_is_elsewhere_than_expected_does_not_move(admin: AdminClient, world: World) -> None:
    said = refused("ABORTED", "alias", admin.set_alias, "shapes/lora", "prod", 2, expected=2)
    assert "points at version 1, not at 2" in said
    refused("INVALID_ARGUMENT", "expected_version", admin.set_alias, "shapes/lora", "prod", 2, expected=0)
    assert world.store.adapters.aliases("shapes", "lora") == {"latest": 2, "prod": 1}


def test_an_alias_does_not_move_to_a_damaged_version(ours: Ours, own_world: World) -> None:
    own_world.adapter_file("shapes", "lora", 2).write_bytes(b"")
    assert ours.classify("lora@prod").route == "lora:1"

    refused(
        "DATA_LOSS",
        "adapters/shapes/lora/2/adapter.safetensors",
        ours.admin.set_alias,
        "shapes/lora",
        "prod",
        2,
    )
    assert ours.classify("lora@prod").route == "lora:1"


# Named routes


def test_a_put_route_answers_the_next_request_and_is_known_to_the_metrics(ours: Ours) -> None:
    done = ours.admin.put_route("live", "prob(lora@prod, ssf)", task="shapes", temperature=2.0)

    assert (done.resolved, done.temperature_reason) == ("prob(lora:1, ssf:1)", "as given")
    assert not done.shadows_adapter
    assert {"shapes/lora:1", "shapes/ssf:1"} <= ours.memory().keys()
    assert "shapes/live" in ours.server.service.metrics.known_routes
    assert ours.classify("live").route == "prob(lora:1, ssf:1)"
    assert ours.admin.put_route("ssf", "lora", task="shapes").shadows_adapter

    listed = {state.route.name: state for state in ours.admin.list_routes(task="shapes").routes}
    assert list(listed) == ["best", "live", "ssf"]
    assert listed["live"].resolved == "prob(lora:1, ssf:1)"
    assert listed["ssf"].route.temperature == 1.5


def test_routes_are_pinned_and_every_change_names_the_caller(ours: Ours) -> None:
    assert ours.admin.put_route("live", "lora", task="shapes").route.route == "lora:2"
    edge = ours.admin.put_route("edge", "lora@prod, ssf", task="shapes", temperature=3.0, follow=True)
    assert (edge.route.route, len(edge.notes)) == ("lora@prod, ssf", 2)
    assert [version.adapter for version in edge.route.versions] == ["shapes/lora:1", "shapes/ssf:1"]
    assert ours.classify("edge").route_note == ""

    (note,) = ours.admin.set_alias("shapes/lora", "prod", 2).notes
    assert "route shapes/edge (lora@prod, ssf) answers by lora:2, ssf:1; temperature 3 is for" in note
    assert ours.classify("edge").route_note in note
    state = {s.route.name: s for s in ours.admin.list_routes(task="shapes").routes}["edge"]
    assert (state.temperature, list(state.follows)) == (1.0, ["ssf"])
    assert state.note in note

    put, moved = ours.admin.list_changes("edge", task="shapes").changes
    assert (put.name, put.after, put.after_temperature) == ("shapes/edge", "lora@prod, ssf", 3.0)
    assert (moved.name, moved.before, moved.after) == ("shapes/lora@prod", "1", "2")
    assert put.by.startswith(("ipv4:127.0.0.1:", "ipv6:[::1]:"))
    assert not put.HasField("before_temperature")
    assert len(ours.admin.list_changes(limit=2).changes) == 2
    refused("NOT_FOUND", "route", ours.admin.list_changes, "nothing", task="shapes")
    for task in ("../..", "shapes\2", "shapes/lora", "Shapes"):
        refused("INVALID_ARGUMENT", "task", ours.admin.list_changes, task=task)


def test_a_deleted_route_answers_no_request(ours: Ours) -> None:
    assert ours.admin.delete_route("best", task="shapes").name == "best"
    with pytest.raises(RequestFailed) as caught:
        ours.classify("best")
    assert caught.value.code == "NOT_FOUND"
    refused("NOT_FOUND", "route", ours.admin.delete_route, "best", task="shapes")


@pytest.mark.parametrize(
    ("name", "route", "options", "code", "field"),
    [
        ("", "lora", {}, "INVALID_ARGUMENT", "name"),
        (LONG, "lora", {}, "INVALID_ARGUMENT", "name"),
        ("r", "", {}, "INVALID_ARGUMENT", "route"),
        ("r", LONG, {}, "INVALID_ARGUMENT", "route"),
        ("r", "2*lora", {}, "INVALID_ARGUMENT", "alpha"),
        ("r", "lora", {"temperature": 0.0}, "INVALID_ARGUMENT", "temperature"),
        ("r", "lora", {"temperature": float("nan")}, "INVALID_ARGUMENT", "temperature"),
        ("r", "lora", {"task": ""}, "INVALID_ARGUMENT", "task"),
        ("r", "lorra", {}, "NOT_FOUND", "adapter"),
        ("r", "lora", {"task": "shaps"}, "NOT_FOUND", "task"),
        ("r", "lora, colours/lora", {}, "INVALID_ARGUMENT", "route"),
    ],
)
def test_a_bad_route_has_its_status_and_field(
    admin: AdminClient, name: str, route: str, options: dict[str, Any], code: str, field: str
) -> None:
    refused(code, field, admin.put_route, name, route, **{"task": "shapes"} | options)
    assert [state.route.name for state in admin.list_routes().routes] == ["best"]


@pytest.mark.parametrize("call", ["list_adapters", "list_aliases", "list_routes"])
def test_a_listing_of_an_unknown_task_is_refused(admin: AdminClient, call: str) -> None:
    assert "did you mean shapes?" in refused("NOT_FOUND", "task", getattr(admin, call), task="shaps")
    refused("INVALID_ARGUMENT", "task", getattr(admin, call), task=LONG)


# Reload, and what goes wrong


def test_a_reload_says_what_changed(own_world: World) -> None:
    with Running(own_world.settings(refresh_s=3600)) as running, running.client() as client:
        admin = AdminClient(client)
        assert client.classify([encoded(1)], route="lora@prod", task="shapes").route == "lora:1"
        own_world.store.adapters.set_alias("shapes", "lora", "prod", 2)
        assert client.classify([encoded(1)], route="lora@prod", task="shapes").route == "lora:1"

        (change,) = admin.reload().changes
        assert (change.name, change.before, change.after) == ("shapes/lora@prod", "1", "2")
        assert client.classify([encoded(1)], route="lora@prod", task="shapes").route == "lora:2"
        assert not admin.reload().changes


def test_a_lost_store_keeps_what_is_known_in_use(ours: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ours.classify("lora@prod").route == "lora:1"
    best = ours.classify("best").route

    def lost(*_: object) -> None:
        raise CorollaError("the store cannot be read")

    with monkeypatch.context() as patch:
        for asked in ("read", "stamps", "swap"):
            patch.setattr(ours.server.service.store.place, asked, lost)
        refused("INTERNAL", None, ours.admin.reload)
        refused("INTERNAL", None, ours.admin.set_alias, "shapes/lora", "prod", 2)
        assert "shapes/lora:1" in ours.memory()
        assert ours.classify("lora@prod").route == "lora:1"
        assert ours.classify("best").route == best
    ours.admin.set_alias("shapes/lora", "prod", 2)
    assert ours.classify("lora@prod").route == "lora:2"


def test_administration_goes_on_while_the_engine_is_busy(ours: Ours) -> None:
    release = ours.hold_engine()
    try:
        assert ours.admin.load_adapter("shapes/ssf").registered
        assert ours.admin.set_alias("shapes/lora", "prod", 2).previous_version == 1
        assert ours.admin.unload_adapter("shapes/ssf").freed_bytes > 0
    finally:
        release.set()
    assert ours.classify("lora@prod").route == "lora:2"


def test_calls_are_counted_by_their_codes(ours: Ours) -> None:
    ours.admin.load_adapter("shapes/lora")
    refused("NOT_FOUND", "adapter", ours.admin.load_adapter, "shapes/lorra")

    for code in ("OK", "NOT_FOUND"):
        labels = {"method": "LoadAdapter", "code": code}
        until(lambda labels=labels: ours.value("corolla_requests_total", **labels) == 1)


def test_an_unexpected_error_is_internal_with_an_incident(
    ours: Ours, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ours.server.admin, "load", lambda *_: 1 / 0)
        said = refused("INTERNAL", None, ours.admin.load_adapter, "shapes/lora")
    assert "division" not in said
    assert said.rpartition("incident ")[2] in caplog.text


def test_a_call_that_expires_leaves_the_server_well(ours: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    load = ours.server.admin.load

    def slow(*words: Any) -> Any:
        go.wait(WAIT_S)
        return load(*words)

    with monkeypatch.context() as patch, ours.client(timeout_s=DEADLINE_S) as hasty:
        patch.setattr(ours.server.admin, "load", slow)
        refused("DEADLINE_EXCEEDED", None, AdminClient(hasty).load_adapter, "shapes/lora")
        go.set()
    until(lambda: "shapes/lora:2" in ours.memory())
    expired = {"method": "LoadAdapter", "code": "DEADLINE_EXCEEDED"}
    until(lambda: ours.value("corolla_requests_total", **expired) == 1)


def test_garbage_on_the_wire_fails_and_the_server_goes_on(running: Running, admin: AdminClient) -> None:
    with running.client() as client:
        for method in pb.DESCRIPTOR.services_by_name["Admin"].methods:
            call: Any = client.channel.unary_unary(f"/{method.containing_service.full_name}/{method.name}")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"\xff\xff\xff\xff", timeout=WAIT_S)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert admin.list_adapters().adapters
