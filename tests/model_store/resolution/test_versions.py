"""The task that is asked for gives the classes of the answer and their order, whatever the route names."""

import pytest

from model_store.format.records import NamedRoute, TaskRecord, TaskSpec
from model_store.resolution import named_route, one_model
from model_store.resolution.versions import ResolvedRoute, resolve
from model_store.routes.text import parse_route
from petl_vit.errors import InvalidInput, NotFound
from petl_vit.image_input import Preprocess
from tests.model_store.world import PREPROCESS, World


@pytest.fixture
def world(world: World) -> World:
    """With the task digits and its adapter lora, and three tasks beside it."""
    world.store.adapters.publish(world.draft(), world.adapter(1.0))
    turned = put(world, "turned", ("one", "zero"))
    world.store.adapters.publish(world.draft(task=turned), world.adapter(2.0))
    put(world, "foreign", ("cat", "dog"))
    put(world, "larger", ("zero", "one"), PREPROCESS.model_copy(update={"image_size": 96}))
    return world


def put(world: World, name: str, classes: tuple[str, ...], preprocess: Preprocess = PREPROCESS) -> TaskRecord:
    spec = TaskSpec.of(
        name=name, classes=classes, preprocess=preprocess, backbone_digest=world.backbone.digest
    )
    return world.store.tasks.put(spec, world.head(0.5))


def resolved(world: World, text: str, task: str) -> ResolvedRoute:
    digest = world.backbone.digest
    return resolve(parse_route(text), task=task, store=world.store, backbone_digest=digest)


@pytest.mark.parametrize(
    "text", ["digits/lora", "0.5*digits/lora", "digits/base", "digits/lora, turned/lora", "digits/lora, base"]
)
def test_the_answer_has_the_classes_of_the_task_that_is_asked_for(world: World, text: str) -> None:
    route = resolved(world, text, "turned")

    assert (route.task.spec.name, route.classes) == ("turned", ("one", "zero"))
    assert route.class_order(route.members[0]) == (1, 0)


def test_without_a_task_the_first_member_gives_the_classes(world: World) -> None:
    assert resolved(world, "turned/lora, digits/lora", "").classes == ("one", "zero")
    assert resolved(world, "digits/lora, turned/lora", "").classes == ("zero", "one")


def test_images_are_prepared_as_the_members_were_trained(world: World) -> None:
    route = resolved(world, "digits/lora", "larger")

    assert route.task.spec.name == "larger"
    assert route.preprocess == PREPROCESS


def test_the_text_names_tasks_where_a_member_is_of_another_than_the_answer(world: World) -> None:
    assert str(resolved(world, "digits/lora", "turned")) == "digits/lora:1"
    assert str(resolved(world, "turned/lora", "turned")) == "lora:1"


@pytest.mark.parametrize(
    ("task", "error", "said"),
    [
        ("foreign", InvalidInput, r"^task: task 'foreign' has other classes than digits/lora:1 \(cat, dog, "),
        ("nosuch", NotFound, "^task: no task 'nosuch'"),
        ("digit", NotFound, r"did you mean digits\?"),
        ("Bad Name", InvalidInput, "^task: 'Bad Name' is not a name"),
    ],
)
def test_a_task_that_cannot_be_answered_is_refused(
    world: World, task: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        resolved(world, "digits/lora", task)
    with pytest.raises(error, match=said):
        named_route.check(world.store, task=task, name="mixed", text="digits/lora")


def test_a_named_route_where_an_adapter_is_wanted_is_called_one(world: World) -> None:
    world.store.routes.put(NamedRoute.of(task="digits", name="both", route="lora"))
    for text in ("digits/both", "lora, both"):
        with pytest.raises(NotFound, match=r"'both' is a named route of task 'digits'.*write it alone"):
            resolved(world, text, "digits")


def test_a_file_has_the_classes_of_its_model_so_another_task_is_refused(world: World) -> None:
    assert one_model.resolve(world.store, "digits/lora", "digits").task.spec.name == "digits"
    with pytest.raises(InvalidInput, match="not in those of 'turned'; give digits"):
        one_model.resolve(world.store, "digits/lora", "turned")
