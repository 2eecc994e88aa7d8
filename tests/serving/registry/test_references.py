"""Which references of a real store named routes are compared with."""

import logging

import pytest

from model_store.format import keys
from model_store.format.reference import Reference
from model_store.resolution.reference import Referenced, referenced_route
from petl_vit.errors import CorollaError
from serving.registry.catalog import Catalog, Plan
from serving.registry.references import RouteReferences
from tests.model_store.references import usable_of
from tests.serving.world import World

BEST = "shapes/best"


class Compared:
    """A catalog whose references are followed, and what was shown of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = 0.0
        self.catalog = Catalog(world.store, world.backbone.digest)
        self.shown: list[tuple[str, Referenced]] = []
        self.temperatures: list[float] = []
        self.references = RouteReferences(self.catalog, show=self._show, clock=lambda: self.now)

    def _show(self, name: str, plan: Plan, found: Referenced) -> None:
        self.shown.append((name, found))
        self.temperatures.append(plan.temperature)

    def names_change(self) -> None:
        self.catalog.refresh()
        self.references.follow(changed=True)

    def measure(self, name: str = BEST, **changes: object) -> Reference:
        """Keeps a reference of a named route as it answers now."""
        _, plan = self.catalog.named[name]
        route = referenced_route(
            plan.resolved, plan.temperature, name=name.partition("/")[2], cascade=plan.cascade
        )
        assert route.digest == plan.digest
        reference = usable_of(route, **changes)
        self.world.store.references.put(reference)
        return reference

    def last(self) -> Referenced:
        name, found = self.shown[-1]
        assert name == BEST
        return found


@pytest.fixture
def compared(own_world: World) -> Compared:
    return Compared(own_world)


def test_a_route_without_a_reference_is_shown_once_with_its_temperature(compared: Compared) -> None:
    compared.references.start()
    compared.references.follow()
    assert compared.shown == [(BEST, Referenced(reference=None))]
    assert compared.temperatures == [2.0]


def test_a_reference_that_is_there_at_the_start_is_shown_before_anything_is_asked(compared: Compared) -> None:
    reference = compared.measure()
    compared.references.start()
    assert compared.shown == [(BEST, Referenced(reference=reference))]


def test_a_reference_that_is_measured_later_is_found_within_half_a_minute(compared: Compared) -> None:
    compared.references.follow()
    reference = compared.measure()
    compared.now = 29.0
    compared.references.follow()
    assert compared.last().reference is None
    compared.now = 30.0
    compared.references.follow()
    assert compared.last() == Referenced(reference=reference)


def test_one_that_is_measured_again_takes_its_place(compared: Compared) -> None:
    compared.measure()
    compared.references.start()
    again = compared.measure(accuracy=0.25)
    compared.references.follow()
    assert compared.last() == Referenced(reference=again)
    assert len(compared.shown) == 2


def test_a_route_that_is_answered_otherwise_has_a_stale_reference_at_once_and_the_log_gives_the_remedy(
    compared: Compared, caplog: pytest.LogCaptureFixture
) -> None:
    reference = compared.measure()
    compared.references.follow()
    compared.world.put_route("best", "lora, ssf, 0.5*bitfit", temperature=3.0)
    compared.names_change()
    assert compared.last() == Referenced(reference=reference, stale="its temperature was 2, now 3")
    assert compared.temperatures[-1] == 3.0
    assert (
        "nothing is estimated of route shapes/best, for its reference is stale: its temperature was 2, now "
        "3; to measure it: corolla routes reference best --task shapes"
    ) in caplog.text
    new = compared.measure()
    compared.names_change()
    assert compared.last() == Referenced(reference=new)


def test_a_route_of_one_adapter_is_compared_with_the_reference_of_that_adapter(compared: Compared) -> None:
    compared.world.put_route("live", "ssf", temperature=1.5)
    compared.catalog.refresh()
    _, plan = compared.catalog.named["shapes/live"]
    reference = usable_of(referenced_route(plan.resolved, 1.5, name="ssf:1"))
    compared.world.store.references.put(reference)
    compared.references.start()
    assert dict(compared.shown)["shapes/live"] == Referenced(reference=reference)


def test_a_route_that_is_deleted_is_no_longer_compared(compared: Compared) -> None:
    compared.measure()
    compared.references.start()
    compared.world.store.routes.delete("shapes", "best")
    compared.names_change()
    assert compared.last() == Referenced(reference=None)


def test_the_reference_of_another_route_under_a_routes_name_is_refused_and_said_once(
    compared: Compared, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody copied a file; what it says of other versions must not be taken for this route's."""
    world = compared.world
    other = usable_of(referenced_route(world.resolve("bitfit"), 1.5))
    _, plan = compared.catalog.named[BEST]
    world.store.place.swap(keys.reference(plan.digest, other.data.digest), lambda _: other.encode())
    for _ in range(2):
        compared.references.follow(changed=True)
    assert compared.shown == [(BEST, Referenced(reference=None))]
    assert caplog.text.count("a reference is not used: ") == 1
    assert f"the reference says it is of route {other.route.digest[:12]}" in caplog.text


@pytest.mark.parametrize("content", [b"{", b'{"format_version": 2}'])
def test_a_reference_that_cannot_be_read_leaves_another_one_of_the_route(
    compared: Compared, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    reference = compared.measure()
    damaged = keys.reference(reference.route.digest, "e" * 64)
    compared.world.store.place.swap(damaged, lambda _: content)
    compared.references.start()
    assert compared.last() == Referenced(reference=reference)
    assert damaged in caplog.text


def test_while_the_store_cannot_be_read_references_stay_and_that_is_said_once(
    compared: Compared, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = compared.measure()
    compared.references.follow()

    def lost(*_: object) -> None:
        raise CorollaError("the store cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr(compared.world.store.place, "stamps", lost)
        for _ in range(2):
            compared.references.follow(changed=True)
    compared.references.follow(changed=True)
    assert compared.shown == [(BEST, Referenced(reference=reference))]
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        "references stay as they were: the store cannot be read"
    ]
