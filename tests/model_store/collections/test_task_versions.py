"""A task whose base head is fitted again has a version for each head."""

import pytest

from model_store.format.records import TaskRecord
from model_store.resolution.versions import resolve
from model_store.routes.text import parse_route
from petl_vit.errors import Conflict, InvalidInput
from tests.model_store.world import CONFIG, World


@pytest.fixture
def second(world: World) -> TaskRecord:
    return world.store.tasks.refit(world.task, world.head(1.0), {"images": 7})


def test_the_name_of_a_task_means_its_newest_version(world: World, second: TaskRecord) -> None:
    tasks = world.store.tasks
    assert (world.task.version, second.version, second.training) == (1, 2, {"images": 7})
    assert tasks.get("digits") == tasks.get("digits", world.backbone.digest) == second
    assert tasks.list() == [second]
    assert tasks.versions("digits") == [world.task, second]
    third = tasks.refit(second, world.head(2.0), {})
    assert (third.version, tasks.get("digits")) == (3, third)
    tasks.remove(third)
    assert tasks.get("digits") == second


def test_adapters_stay_with_the_version_that_they_were_made_for(world: World, second: TaskRecord) -> None:
    old = world.store.adapters.publish(world.draft("old"), world.adapter(1.0))
    new = world.store.adapters.publish(world.draft("new", second), world.adapter(1.0))
    assert world.store.tasks.of(old) == world.task
    assert world.store.tasks.of(new) == second
    assert world.store.tasks.find("digits", world.task.digest[:12]) == world.task

    def resolved(text: str) -> list[int]:
        route = resolve(
            parse_route(text), task="digits", store=world.store, backbone_digest=world.backbone.digest
        )
        return [term.task.version for term in route.terms()]

    assert resolved("old, new, base") == [1, 2, 2]
    with pytest.raises(InvalidInput, match="different tasks or base heads"):
        resolved("0.5*old + 0.5*new")


def test_a_base_head_that_a_version_has_already_is_refused(world: World, second: TaskRecord) -> None:
    with pytest.raises(
        Conflict, match="version 2 of task 'digits' has this base head already; fit it to other"
    ):
        world.store.tasks.refit(second, world.head(1.0), {})
    with pytest.raises(Conflict, match=r"version 1 of task 'digits' .* delete the newer versions"):
        world.store.tasks.refit(second, world.head(0.0), {})
    assert world.store.tasks.put(world.spec(), world.head(0.0)) == world.task  # as an archive does
    with pytest.raises(Conflict, match="different base head"):
        world.store.tasks.put(world.spec(), world.head(3.0))


def test_each_backbone_has_versions_of_its_own(world: World, second: TaskRecord) -> None:
    other = world.store.backbones.put("tiny.two", CONFIG, world.weights(2.0), "random")
    spec = world.spec().model_copy(update={"backbone_digest": other.digest})
    there = world.store.tasks.put(spec, world.head(0.0))
    assert there.version == 1
    assert world.store.tasks.list("digits") == [there, second]
    assert world.store.tasks.versions("digits", other.digest) == [there]
