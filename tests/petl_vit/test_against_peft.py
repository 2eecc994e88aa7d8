"""DoRA, VeRA and IA3 against the real PEFT on timm's own ViT, in float64: features, and gradients."""

import copy
from collections.abc import Callable

import pytest
import torch
from peft import IA3Config, LoraConfig, VeraConfig, get_peft_model
from peft.config import PeftConfig
from torch import Tensor, nn

from petl_vit import methods
from petl_vit.edit_set import EditSet
from petl_vit.edits import Foldable, LowRank, fold
from petl_vit.executors.functional import Functional
from petl_vit.executors.joint import Joint, Learner
from petl_vit.executors.lanes import Lane
from petl_vit.executors.sliced import Sliced
from petl_vit.methods.method import Method
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import images_of
from tests.petl_vit.backbones import family, relative

RANK = 3
METHODS: dict[str, Method] = {
    "dora": methods.get("dora").configure({"rank": RANK, "scale": 2.0, "targets": "qkv,fc1"}),
    "vera": methods.get("vera").configure({"rank": RANK, "projection_seed": 5}),
    "ia3": methods.get("ia3").configure({"targets": "q,k,v,proj,hidden"}),
}
CONFIGS: dict[str, PeftConfig] = {
    "dora": LoraConfig(r=RANK, lora_alpha=2 * RANK, use_dora=True, target_modules=["qkv", "fc1"]),
    "vera": VeraConfig(r=RANK, target_modules=["qkv"]),
    "ia3": IA3Config(target_modules=["qkv", "attn.proj", "fc2"], feedforward_modules=["fc2"]),
}


def drawn(module: nn.Module) -> None:
    """Moves what PEFT trains, so that nothing is at its start."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                moved = 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(moved)


def of_dora(name: str, of: Callable[[str], Tensor]) -> Tensor:
    site, _, kind = name.rpartition(".")
    if kind == "magnitude":
        return of(f"{site}.lora_magnitude_vector.default.weight")
    return of(f"{site}.{kind.replace('_a', '_A').replace('_b', '_B')}.default.weight").T


def of_vera(name: str, of: Callable[[str], Tensor]) -> Tensor:
    return of(f"{name.replace('vera_', 'vera_lambda_')}.default")


def of_ia3(name: str, of: Callable[[str], Tensor]) -> Tensor:
    block, _, kind = name.removesuffix(".scale").rpartition(".")
    if kind in ("q", "k", "v"):
        return of(f"{block}.qkv.ia3_l.default").flatten().chunk(3)["qkv".index(kind)]
    return of(f"{block}.{kind.replace('hidden', 'fc2')}.ia3_l.default").flatten()


READ = {"dora": of_dora, "vera": of_vera, "ia3": of_ia3}


def with_our_matrices(model: nn.Module, vit: FrozenViT) -> None:
    """Gives PEFT's VeRA our random matrices, for its own are of PyTorch's generator."""
    ones = {name: torch.ones(shape).double() for name, shape in METHODS["vera"].shapes(vit.arch).items()}
    edit = METHODS["vera"].edits(vit, ones)[0]
    assert isinstance(edit, LowRank)
    for module in model.modules():
        if hasattr(module, "vera_A"):
            module.vera_A["default"], module.vera_B["default"] = edit.a.T, edit.b.T


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["plain", "swiglu"])
def test_features_gradients_and_merged_weights_are_those_of_peft(name: str, kind: str) -> None:
    vit, frozen = family(kind, dtype=torch.float64, depth=2)
    images = images_of(vit)
    theirs = get_peft_model(copy.deepcopy(frozen), CONFIGS[name]).base_model.model.double()
    drawn(theirs)
    if name == "vera":
        with_our_matrices(theirs, vit)
    parameters = dict(theirs.named_parameters())
    method = METHODS[name]
    ours = {
        n: READ[name](n, parameters.__getitem__).detach().clone().requires_grad_()
        for n in method.shapes(vit.arch)
    }

    expected = theirs(images)
    edits = method.edits(vit, ours)
    found = vit.forward(images, Functional(vit, edits))
    assert relative(found.detach(), expected.detach()) <= 1e-10

    weights = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    (expected * weights).sum().backward()
    for executor in (Functional(vit, edits), Joint(vit, [_learner(method, vit, ours, len(images))])):
        gradients = torch.autograd.grad(
            (vit.forward(images, executor) * weights).sum(), list(ours.values()), retain_graph=True
        )
        for n, gradient in zip(ours, gradients, strict=True):
            assert relative(gradient, READ[name](n, lambda p: _gradient(parameters[p]))) <= 1e-9, n

    with torch.no_grad():
        half = torch.full((len(images), 1, 1), 0.5, dtype=torch.float64)
        lane = Lane(rows=slice(0, len(images)), edits=EditSet(edits), alpha=half)
        mixed = vit.forward(images, Sliced(vit, [lane]))
        folded = fold(vit.params, [(edit, 0.5) for edit in edits if isinstance(edit, Foldable)])
        assert relative(mixed, vit.forward(images, Sliced(vit, [], folded))) <= 1e-10
        assert relative(mixed, _halfway(theirs, frozen)(images)) <= 1e-10


def _learner(method: Method, vit: FrozenViT, tensors: dict[str, Tensor], rows: int) -> Learner:
    return Learner(rows=rows, edits=method.edits(vit, tensors), drop_path=0.0, noise=None)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _halfway(adapted: nn.Module, frozen: nn.Module) -> nn.Module:
    """The frozen model with its weights half way to those that PEFT merges."""
    for module in adapted.modules():
        if hasattr(module, "merge") and hasattr(module, "base_layer"):
            module.merge()
    merged = {n.replace("base_layer.", ""): t for n, t in adapted.state_dict().items()}
    halfway = copy.deepcopy(frozen)
    halfway.load_state_dict({n: (t + merged[n]) / 2 for n, t in frozen.state_dict().items()})
    return halfway


def test_the_random_matrices_of_vera_are_the_same_in_every_version() -> None:
    vit, _ = family("plain", dtype=torch.float64, depth=2)
    ones = {name: torch.ones(shape).double() for name, shape in METHODS["vera"].shapes(vit.arch).items()}
    first, second = METHODS["vera"].edits(vit, ones)
    assert isinstance(first, LowRank)
    assert isinstance(second, LowRank)
    assert torch.equal(first.a, second.a)
    assert torch.equal(first.b, second.b)
    start, end = first.a.flatten()[:3].tolist(), first.b.flatten()[-3:].tolist()
    assert start == pytest.approx([0.025039630010724068, 0.05843089520931244, 0.20774413645267487], rel=1e-7)
    assert end == pytest.approx([0.4578761160373688, -1.4003385305404663, 1.347256064414978], rel=1e-7)
    for matrix, bound in ((first.a, (6 / vit.arch.width) ** 0.5), (first.b, (6 / RANK) ** 0.5)):
        assert 0.9 * bound < float(matrix.abs().max()) <= bound
