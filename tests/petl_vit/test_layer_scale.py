"""AdaptFormer's and Convpass' branches through LayerScale, as the study's code has them, in every executor.

The reference (`tests/petl_vit/reference`) sends the branch through timm's own LayerScale module.
"""

import pytest
import torch
from torch import Tensor, nn

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.arena import Arena
from petl_vit.executors.functional import Functional
from petl_vit.executors.gathered import Gathered, Lookup
from petl_vit.executors.joint import Joint, Learner
from petl_vit.executors.kernels import Rows
from petl_vit.executors.lanes import Lane
from petl_vit.executors.sliced import Sliced
from petl_vit.executors.tabled import Tabled
from petl_vit.methods.method import Method
from petl_vit.noise import Noise
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import adapter_with, images_of, random_tensors
from tests.petl_vit.backbones import family, relative
from tests.petl_vit.reference import REFERENCES

NAMES = ["adaptformer", "convpass"]


def method_of(name: str, *, layer_scale: bool = True) -> Method:
    return methods.get(name).configure({"rank": 3, "scale": 0.7, "layer_scale": layer_scale})


def reference(name: str, kind: str, tensors: dict[str, Tensor], alpha: float = 1.0) -> nn.Module:
    _, model = family(kind, dtype=torch.float64)
    return REFERENCES[name](model, tensors, method_of(name).model_dump(), alpha).eval()


def in_every_executor(vit: FrozenViT, adapter: Adapter, images: Tensor, alpha: float) -> dict[str, Tensor]:
    """[B, D] by each executor that serves."""
    rows = torch.full((len(images), 1, 1), alpha, dtype=vit.dtype)
    whole = slice(0, len(images))
    lookup = Lookup(
        form=adapter.edits,
        bank=adapter.edits.flat[None],
        slots=torch.zeros(len(images)).long(),
        alphas=rows.flatten(),
    )
    runs = {
        "functional": Functional(vit, adapter.edits.edits, alpha=rows),
        "sliced": Sliced(vit, [Lane(rows=whole, edits=adapter.edits, alpha=rows)]),
        "gathered": Gathered(vit, [lookup]),
    }
    return {executor: vit.forward(images, run) for executor, run in runs.items()}


@pytest.mark.parametrize("kind", ["dinov2", "plain"])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_branch_goes_through_layer_scale_where_the_backbone_has_it(name: str, kind: str) -> None:
    vit, _ = family(kind, dtype=torch.float64)
    adapter, images = adapter_with(method_of(name), vit), images_of(vit)
    tensors = random_tensors(method_of(name), vit)
    for alpha in (0.0, 0.3, 1.0):
        expected = reference(name, kind, tensors, alpha)(images)
        for executor, found in in_every_executor(vit, adapter, images, alpha).items():
            assert relative(found, expected) <= 1e-9, (executor, alpha)
    without = vit.forward(images, Functional(vit, method_of(name, layer_scale=False).edits(vit, tensors)))
    assert (relative(without, expected) > 0.01) == (kind == "dinov2")


@pytest.mark.parametrize("name", NAMES)
def test_the_kernels_of_cuda_graphs_compute_it_too(name: str) -> None:
    vit = family("dinov2", depth=1)[0]
    adapter, images = adapter_with(method_of(name), vit), images_of(vit)[:1]
    arena = Arena(vit.arch, nbytes=2**24, slots=2, dtype=vit.dtype, device=vit.device)
    placed = arena.place(adapter.edits)
    assert placed is not None
    rows = Rows(
        slots=torch.tensor([[placed.slot]], dtype=torch.int32),
        alphas=torch.tensor([[0.7]]),
        bank=arena.bank,
        table=arena.table,
    )
    with torch.inference_mode():
        found = vit.forward(images, Tabled(vit, arena.layout, rows))
        expected = in_every_executor(vit, adapter, images, 0.7)["sliced"]
    assert relative(found, expected) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_gradients_go_through_layer_scale_alone_and_together(name: str) -> None:
    vit, _ = family("dinov2", dtype=torch.float64)
    method, images = method_of(name), images_of(vit)
    start = random_tensors(method, vit)
    theirs, alone, together = ({n: t.clone().requires_grad_() for n, t in start.items()} for _ in range(3))
    still = method.model_copy(update={"dropout": 0.0})  # so that no mask is drawn
    noise = Noise(torch.device("cpu"), 0)
    learner = Learner(rows=len(images), edits=still.edits(vit, together), drop_path=0.0, noise=noise)
    for feature in (
        reference(name, "dinov2", theirs)(images),
        vit.forward(images, Functional(vit, still.edits(vit, alone), noise=noise)),
        vit.forward(images, Joint(vit, [learner])),
    ):
        feature.square().sum().backward()
    for tensor, expected in theirs.items():
        assert expected.grad is not None
        for ours in (alone[tensor].grad, together[tensor].grad):
            assert ours is not None
            assert float((ours - expected.grad).norm()) <= 1e-8 * float(expected.grad.norm()), tensor


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_scale_that_has_no_effect_is_told(name: str) -> None:
    with_it, without = family("dinov2")[0].arch, family("plain")[0].arch
    assert method_of(name).notes(with_it) == method_of(name, layer_scale=False).notes(without) == []
    assert method_of(name).notes(without) == [
        f"layer_scale changes nothing: {without.name} has no LayerScale"
    ]
