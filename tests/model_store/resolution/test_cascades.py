"""A cascade's thresholds belong to the versions that they were learnt for: what answers when others do."""

from pathlib import Path

import pytest

from model_store.format.records import Cascade, CascadeMeasured, NamedRoute, TaskRecord
from model_store.resolution import named_route
from model_store.resolution.answering import Answering, answering, versions_now
from model_store.resolution.promotion import after_move, after_registration
from model_store.store import Store
from petl_vit.cascade import Score, Stage
from petl_vit.errors import InvalidInput
from tests.model_store.world import World

CASCADE = Cascade(
    score=Score.CONFIDENCE,
    order=(0, 1),
    stages=(Stage(threshold=0.9), Stage(temperature=1.3)),
    loss=0.01,
    measured=CascadeMeasured(accuracy_loss=0.0, cost=1.1, images=50, data="b" * 64, folds=5),
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """`lora:1` is `prod`."""
    world = World(Store.open(str(tmp_path / "store")), tmp_path / "store")
    world.store.adapters.publish(world.draft(), world.adapter(1.0))
    world.store.adapters.publish(world.draft("ssf"), world.adapter(3.0))
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    return world


def put(world: World, text: str, **options: object) -> named_route.Naming:
    naming = named_route.check(world.store, task="digits", name="live", text=text, **options)  # type: ignore[arg-type]
    world.store.routes.put(naming.route)
    return naming


def calibrate(world: World) -> NamedRoute:
    named = world.store.routes.get("digits", "live")
    fields = dict(named) | {"cascade": CASCADE, "temperature": CASCADE.stages[-1].temperature}
    route = NamedRoute.of(**fields)
    world.store.routes.put(route)
    return route


def now(world: World) -> Answering:
    return answering(world.store, world.store.routes.get("digits", "live"))


def test_a_cascade_without_thresholds_is_stored_and_refused_until_they_are_learnt(world: World) -> None:
    naming = put(world, "cascade(lora, ssf; loss<=0.01)")
    assert naming.lines()[0] == "route digits/live = cascade(lora:1, ssf:1; loss<=0.01)"
    assert not any(line.startswith("temperature") for line in naming.lines())
    assert naming.notes[-1] == (
        "thresholds: none yet, so requests are refused until `corolla routes calibrate live --task digits "
        "--data IMAGES`"
    )
    with pytest.raises(InvalidInput, match="the thresholds of cascade live were not learnt yet") as error:
        now(world)
    assert error.value.field == "route"
    assert error.value.remedy is not None
    assert "`corolla routes calibrate live --task digits --data IMAGES`" in error.value.remedy
    resolved = versions_now(world.store, naming.route)
    assert (str(resolved), resolved.loss) == ("cascade(lora:1, ssf:1; loss<=0.01)", 0.01)
    calibrate(world)
    assert (now(world).cascade, now(world).temperature, now(world).note) == (CASCADE, 1.3, "")


def test_a_moved_alias_voids_the_thresholds_and_all_members_answer(world: World) -> None:
    put(world, "cascade(lora@prod, ssf; loss<=0.01)")
    calibrate(world)
    world.store.adapters.publish(world.draft(), world.adapter(2.0))
    assert now(world).cascade == CASCADE, "nothing of it has changed"
    world.store.adapters.set_alias("digits", "lora", "prod", 2)
    answer = now(world)
    assert (answer.cascade, answer.temperature) == (None, 1.0)
    assert answer.note == (
        "the thresholds are for digits/lora:1, digits/ssf:1 and are not applied: all members answer, "
        "digits/lora:2, digits/ssf:1; learn them for these with `corolla routes calibrate live --task digits "
        "--data IMAGES`"
    )
    (standing,) = after_move(world.store, "digits", "lora", "prod")
    assert "are not applied" in standing.line
    world.store.adapters.set_alias("digits", "lora", "prod", 1)
    assert now(world).cascade == CASCADE, "rolled back, they are valid again"


def test_promoting_a_member_says_that_the_thresholds_are_to_be_learnt_again(world: World) -> None:
    put(world, "cascade(lora, ssf; loss<=0.01)")
    calibrate(world)
    manifest = world.store.adapters.publish(world.draft(), world.adapter(2.0))
    standings = after_registration(world.store, [manifest])
    (route,) = [standing for standing in standings if standing.name == "digits/live"]
    assert not route.moves
    assert route.promote == (
        "corolla routes calibrate 'cascade(lora:2, ssf:1; loss<=0.01)' --as live --data IMAGES --task digits"
    )


def test_the_same_cascade_put_again_keeps_its_thresholds_and_another_does_not(world: World) -> None:
    put(world, "cascade(lora, ssf; loss<=0.01)")
    calibrate(world)
    assert put(world, "cascade(lora, ssf; loss<=0.01)").notes[-1] == (
        "thresholds: as learnt before for the same members"
    )
    assert now(world).cascade == CASCADE
    put(world, "cascade(lora, ssf; loss<=0.02)")
    assert world.store.routes.get("digits", "live").cascade is None
    history = world.store.history.of("routes/digits/live")
    assert [record.note for record in history] == [
        "",
        "thresholds learnt: asks 1.1 of 2 members on average",
        "thresholds are gone",
    ]


def test_a_cascade_takes_no_temperature(world: World) -> None:
    with pytest.raises(InvalidInput, match="are learnt with its thresholds") as error:
        put(world, "cascade(lora, ssf; loss<=0.01)", temperature=1.2)
    assert error.value.field == "temperature"


def test_members_of_different_classes_are_refused(world: World) -> None:
    other: TaskRecord = world.store.tasks.put(world.spec("signs", ("stop", "go")), world.head(0.0))
    world.store.adapters.publish(world.draft("lora", task=other), world.adapter(5.0))
    with pytest.raises(InvalidInput, match="have different classes"):
        put(world, "cascade(lora, signs/lora; loss<=0.01)")
