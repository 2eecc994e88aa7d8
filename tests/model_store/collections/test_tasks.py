import pytest
import torch

from petl_vit.errors import Conflict, NotFound
from tests.model_store.world import CONFIG, World


def test_a_task_is_stored_once_and_reads_back_equal(world: World) -> None:
    assert world.store.tasks.put(world.spec(), world.head(0.0)) == world.task
    assert world.store.tasks.list() == [world.task]
    assert world.store.tasks.get("digits", world.backbone.digest) == world.task
    assert torch.equal(world.store.tasks.load_base_head(world.task)["head.weight"], torch.zeros(2, 3))


def test_a_task_name_cannot_be_taken_by_other_classes_or_another_head(world: World) -> None:
    with pytest.raises(Conflict, match="different classes; give this one another --task name"):
        world.store.tasks.put(world.spec(classes=("zero", "two")), world.head(0.0))
    with pytest.raises(Conflict, match="different base head"):
        world.store.tasks.put(world.spec(), world.head(1.0))


def test_a_task_may_be_on_two_backbones(world: World) -> None:
    other = world.store.backbones.put("tiny.two", CONFIG, world.weights(2.0), "random")
    spec = world.spec().model_copy(update={"backbone_digest": other.digest})
    record = world.store.tasks.put(spec, world.head(1.0))
    assert world.store.tasks.get("digits", other.digest) == record
    assert world.store.tasks.get("digits", world.backbone.digest) == world.task


def test_an_unknown_task_names_near_matches_and_a_known_one_its_backbones(world: World) -> None:
    with pytest.raises(NotFound, match="did you mean digits"):
        world.store.tasks.get("digit", world.backbone.digest)
    with pytest.raises(NotFound, match=f"it is on {world.backbone.digest[:12]}"):
        world.store.tasks.get("digits", "0" * 64)


def test_a_task_needs_its_backbone(world: World) -> None:
    with pytest.raises(NotFound, match="corolla backbones import"):
        world.store.tasks.put(world.spec().model_copy(update={"backbone_digest": "0" * 64}), world.head(0.0))


def test_storing_a_task_again_restores_a_base_head_that_is_missing_or_damaged(world: World) -> None:
    path = world.folder / f"tasks/digits/{world.task.digest}/base_head.safetensors"
    path.write_bytes(b"half")
    assert world.store.tasks.put(world.spec(), world.head(0.0)) == world.task
    world.store.tasks.load_base_head(world.task)
    path.unlink()
    world.store.tasks.put(world.spec(), world.head(0.0))
    world.store.tasks.load_base_head(world.task)
