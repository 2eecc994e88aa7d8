"""Kernels that look edits up by number compute what slices do; here in Triton's interpreter, or on a GPU."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.arena import Arena
from petl_vit.executors import kernels
from petl_vit.executors.kernels import Rows
from petl_vit.executors.lanes import Lane
from petl_vit.executors.sliced import Sliced
from petl_vit.executors.tabled import Tabled
from petl_vit.per_row import Alpha
from petl_vit.precision import Precision
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import NAMES, WHOLE, adapter_of, adapter_with, images_of
from tests.petl_vit.backbones import config_of, family, relative, tensors_of, timm_model

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LOOSE = {"full", "ia3", "selective", "vpt_shallow", "vqt"}
TABLED = [name for name in NAMES if name not in LOOSE]
SOME = ["lora", "convpass", "vpt_deep", "layernorm", "houlsby"]


if DEVICE.type == "cuda":
    torch.backends.cudnn.allow_tf32 = False  # as `petl_vit.device` does


def arena_of(vit: FrozenViT) -> Arena:
    return Arena(vit.arch, nbytes=2**24, slots=32, dtype=vit.dtype, device=vit.device)


def number(arena: Arena, adapter: Adapter) -> int:
    placed = arena.place(adapter.edits)
    assert placed is not None
    return placed.slot


def rows_of(arena: Arena, slots: list[list[int]], alphas: list[list[float]]) -> Rows:
    """From [T][B]."""
    return Rows(
        slots=torch.tensor(slots, dtype=torch.int32, device=arena.bank.device),
        alphas=torch.tensor(alphas, device=arena.bank.device),
        bank=arena.bank,
        table=arena.table,
    )


@torch.inference_mode()
def tabled(vit: FrozenViT, arena: Arena, images: torch.Tensor, rows: Rows) -> torch.Tensor:
    return vit.forward(images, Tabled(vit, arena.layout, rows)).cpu()


@torch.inference_mode()
def sliced(vit: FrozenViT, image: torch.Tensor, terms: list[tuple[Adapter, float]]) -> torch.Tensor:
    """[D] of one image under a sum of adapters."""

    def per_row(alpha: float) -> Alpha:
        return torch.full((1, 1, 1), alpha, device=vit.device)

    edits = [(adapter.edits.mapped(lambda t: t.to(vit.device)), alpha) for adapter, alpha in terms]
    lanes = [Lane(rows=slice(0, 1), edits=own, alpha=per_row(alpha)) for own, alpha in edits]
    return vit.forward(image[None], Sliced(vit, lanes))[0].cpu()


def test_every_method_is_what_its_slice_is_and_other_rows_stay_frozen() -> None:
    vit = family("plain", depth=2)[0].to(device=DEVICE)
    image, arena = images_of(vit)[0].to(DEVICE), arena_of(vit)
    adapters = [adapter_of(name, vit, 1) for name in TABLED]
    slots = [*(number(arena, adapter) for adapter in adapters), -1]
    rows = rows_of(arena, [slots], [[0.7] * len(slots)])

    *edited, plain = tabled(vit, arena, image.expand(len(slots), -1, -1, -1), rows)

    frozen = sliced(vit, image, [])
    assert relative(plain, frozen) <= 1e-5
    for name, adapter, feature in zip(TABLED, adapters, edited, strict=True):
        assert relative(feature, sliced(vit, image, [(adapter, 0.7)])) <= 1e-5, name
        assert name == "linear" or relative(feature, frozen) > 1e-2, name


@pytest.mark.parametrize("kind", [kind for kind in WHOLE if kind != "plain"])
def test_methods_mix_on_every_family_of_backbones(kind: str) -> None:
    vit = family(kind, depth=1)[0].to(device=DEVICE)
    images, arena = images_of(vit)[:1].to(DEVICE), arena_of(vit)
    adapters = [adapter_of(name, vit, 1) for name in SOME]
    slots = [number(arena, adapter) for adapter in adapters]
    found = tabled(vit, arena, images.expand(5, -1, -1, -1), rows_of(arena, [slots], [[0.7] * 5]))
    for adapter, feature in zip(adapters, found, strict=True):
        assert relative(feature, sliced(vit, images[0], [(adapter, 0.7)])) <= 1e-5


def test_a_gated_mlp_whose_hidden_layer_is_half_of_sixteens_is_edited_whole() -> None:
    options = {"depth": 1, "embed_dim": 96, "num_heads": 3, "mlp_ratio": 208 / 96}
    config = config_of("vit_giant_patch14_reg4_dinov2", 28, tuple(options.items()), depth=1)
    vit = FrozenViT(config, tensors_of(timm_model(config.model_dump_json()))).to(device=DEVICE)
    images, arena = images_of(vit)[:1].to(DEVICE), arena_of(vit)
    lora = methods.get("lora").configure({"rank": 3, "targets": "fc1,fc2"})
    adapters = [adapter_with(lora, vit), adapter_of("ssf", vit)]
    rows = rows_of(arena, [[number(arena, adapter) for adapter in adapters]], [[0.7, 0.7]])
    found = tabled(vit, arena, images.expand(2, -1, -1, -1), rows)
    assert (vit.arch.hidden, vit.arch.fc1_width) == (104, 208)
    for adapter, feature in zip(adapters, found, strict=True):
        assert relative(feature, sliced(vit, images[0], [(adapter, 0.7)])) <= 1e-5


def test_the_terms_of_a_sum_all_read_the_frozen_forward() -> None:
    vit = family("plain", depth=2)[0].to(device=DEVICE)
    images, arena = images_of(vit)[:1].to(DEVICE), arena_of(vit)
    adapters = [adapter_of(name, vit, 1) for name in ("ssf", "lora", "vpt_deep", "convpass")]
    alphas = [0.5, 0.4, 0.3, 0.2]
    rows = rows_of(arena, [[number(arena, a)] for a in adapters], [[alpha] for alpha in alphas])
    expected = sliced(vit, images[0], list(zip(adapters, alphas, strict=True)))
    assert relative(tabled(vit, arena, images, rows)[0], expected) <= 1e-5


@pytest.mark.parametrize("name", ["vpt_deep", "lora", "adaptformer"])
def test_at_alpha_0_a_row_is_frozen(name: str) -> None:
    vit = family("plain", depth=2)[0].to(device=DEVICE)
    images, arena = images_of(vit)[:1].to(DEVICE), arena_of(vit)
    rows = rows_of(arena, [[number(arena, adapter_of(name, vit, 1))]], [[0.0]])
    assert relative(tabled(vit, arena, images, rows)[0], sliced(vit, images[0], [])) <= 1e-6


@pytest.mark.parametrize(("name", "rank"), [("lora", 20), ("adaptformer", 40)])
def test_ranks_of_several_blocks_are_whole(name: str, rank: int) -> None:
    vit = family("plain", depth=2)[0].to(device=DEVICE)
    images, arena = images_of(vit)[:1].to(DEVICE), arena_of(vit)
    adapter = adapter_with(methods.get(name).configure({"rank": rank}), vit)
    rows = rows_of(arena, [[number(arena, adapter)]], [[1.0]])
    assert relative(tabled(vit, arena, images, rows)[0], sliced(vit, images[0], [(adapter, 1.0)])) <= 1e-5


def test_with_products_in_bf16_it_stays_near_float32() -> None:
    products = (
        torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    )  # as the interpreter has no bf16 ones
    exact = family("plain", depth=1)[0].to(device=DEVICE)
    vit = exact.in_precision(Precision.BF16)
    images, arena = images_of(exact)[:1].to(DEVICE), arena_of(vit)
    names = ("lora", "adaptformer", "convpass", "houlsby", "ssf", "vpt_deep")
    adapters = [adapter_of(name, exact, 1) for name in names]
    slots = [number(arena, adapter) for adapter in adapters]
    rows = replace(rows_of(arena, [slots], [[1.0] * len(slots)]), products=products)
    found = tabled(vit, arena, images.expand(len(slots), -1, -1, -1), rows)
    for adapter, feature in zip(adapters, found, strict=True):
        assert feature.dtype == torch.float32
        assert relative(feature, sliced(exact, images[0], [(adapter, 1.0)])) <= 2e-2


@pytest.mark.slow
def test_every_kernel_compiles_for_a_gpu_that_is_not_here() -> None:
    surroundings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.petl_vit.compile_kernels", "bf16"]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = Path(kernels.__file__).read_text().split("@_kernel\ndef ")[1:]
    assert done.stdout.split() == [kernel.partition("(")[0] for kernel in written]
