import pytest
import safetensors.torch
import torch

from petl_vit.backbone import BackboneConfig
from petl_vit.errors import Corrupt, InvalidInput, NotFound
from tests.model_store.world import CONFIG, World


def test_a_backbone_is_stored_once_and_reads_back_equal(world: World) -> None:
    again = world.store.backbones.put("tiny.other", CONFIG, world.weights(1.0), "elsewhere")
    assert again == world.backbone
    assert world.store.backbones.list() == [world.backbone]
    loaded = world.store.backbones.load(world.backbone)
    assert loaded.keys() == world.weights(1.0).keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in world.weights(1.0).items())


def test_a_backbones_config_is_part_of_its_identity(world: World) -> None:
    config = BackboneConfig(**(CONFIG.model_dump() | {"pos_embed_antialias": False}))
    other = world.store.backbones.put("tiny.two", config, world.weights(1.0), "random")
    assert other.digest != world.backbone.digest


def test_a_backbone_is_found_by_name_digest_and_prefix(world: World) -> None:
    digest = world.backbone.digest
    for ref in ("tiny.one", digest, digest[:8]):
        assert world.store.backbones.get(ref) == world.backbone
    with pytest.raises(NotFound):
        world.store.backbones.get(digest[:7])


def test_an_unknown_backbone_names_near_matches(world: World) -> None:
    with pytest.raises(NotFound, match=r"did you mean tiny\.one\?"):
        world.store.backbones.get("tiny.onw")


def test_a_name_of_two_backbones_lists_their_digests(world: World) -> None:
    other = world.store.backbones.put("tiny.one", CONFIG, world.weights(2.0), "random")
    with pytest.raises(InvalidInput) as error:
        world.store.backbones.get("tiny.one")
    assert world.backbone.digest in str(error.value)
    assert other.digest in str(error.value)


def test_a_changed_backbone_file_is_refused(world: World) -> None:
    file = world.folder / f"backbones/{world.backbone.digest}/backbone.safetensors"
    file.write_bytes(safetensors.torch.save(world.weights(3.0)))
    with pytest.raises(Corrupt, match="import the backbone again"):
        world.store.backbones.load(world.backbone)


def test_weights_that_are_not_finite_are_not_stored(world: World) -> None:
    with pytest.raises(InvalidInput, match="'cls_token' holds NaN"):
        world.store.backbones.put("tiny.nan", CONFIG, world.weights(float("nan")), "random")


def test_an_import_replaces_the_damaged_tensors_that_it_finds(world: World) -> None:
    key = f"backbones/{world.backbone.digest}/backbone.safetensors"
    (world.folder / key).write_bytes(b"half")
    world.store.backbones.put("tiny.one", CONFIG, world.weights(1.0), "random")
    assert world.store.backbones.load(world.backbone).keys() == world.weights(1.0).keys()
