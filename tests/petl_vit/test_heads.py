"""Linear heads and CLIP's, each against its equation written out."""

import pytest
import torch
from torch import Tensor

from petl_vit import heads
from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.errors import Corrupt
from petl_vit.executors.sliced import Sliced
from petl_vit.heads import ClipHead, Head, LinearHead
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import images_of, method_of, random_tensors
from tests.petl_vit.backbones import family, relative

pytestmark = pytest.mark.numerics

CLASSES, WIDTH, SHARED = 5, 12, 7
KINDS = ["linear", "clip"]


def head_of(kind: str, seed: int = 0, width: int = WIDTH, classes: int = CLASSES) -> Head:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    if kind == "linear":
        return LinearHead(weight=draw(classes, width), bias=draw(classes))
    return ClipHead(projection=draw(width, SHARED), weight=20 * draw(classes, SHARED), bias=draw(classes))


def adapter_of(kind: str, vit: FrozenViT, seed: int, classes: int = CLASSES) -> Adapter:
    method = method_of("lora")
    head = head_of(kind, seed, vit.arch.width, classes)
    return Adapter.load(
        digest=f"{kind}-{seed}",
        method=method,
        tensors=random_tensors(method, vit, seed) | head.tensors(),
        vit=vit,
        base_head=head_of(kind, 99, vit.arch.width, classes),
        task_digest=kind,
    )


def interpolated(kind: str, features: Tensor, terms: list[tuple[Head, float]], base: Head) -> Tensor:
    """The rule tensor by tensor, and each kind's equation, in float64."""
    mixed = {}
    for name, frozen in base.tensors().items():
        mixed[name] = frozen.double()
        for head, alpha in terms:
            mixed[name] = mixed[name] + alpha * (head.tensors()[name].double() - frozen.double())
    f = features.double()
    if kind == "clip":
        f = f @ mixed["head.projection"]
        f = f / (f * f).sum(dim=1, keepdim=True).sqrt()
    return f @ mixed["head.weight"].T + mixed["head.bias"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_are_the_equation(kind: str) -> None:
    head, features = head_of(kind), torch.randn(3, WIDTH)
    assert relative(head.logits(features).double(), interpolated(kind, features, [], head)) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_told_by_the_names_of_the_tensors(kind: str) -> None:
    head = head_of(kind)
    found = heads.load(head.tensors() | {"blocks.0.x": torch.zeros(1)}, classes=CLASSES, width=WIDTH)
    assert type(found) is type(head)
    assert found.classes == CLASSES
    assert all(found.tensors()[name] is tensor for name, tensor in head.tensors().items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alphas", [(0.0,), (0.3,), (1.0,), (1.5,), (0.4, 0.7), (1.0, -0.5, 0.2)], ids=str)
def test_interpolation_is_of_the_tensors(kind: str, alphas: tuple[float, ...]) -> None:
    base, features = head_of(kind, 99), torch.randn(3, WIDTH)
    terms = [(head_of(kind, seed), alpha) for seed, alpha in enumerate(alphas)]
    found = heads.interpolate(base, terms).logits(features)
    assert relative(found.double(), interpolated(kind, features, terms, base)) <= 1e-5


def test_of_a_linear_head_it_is_the_interpolation_of_its_logits() -> None:
    base, features = head_of("linear", 99), torch.randn(3, WIDTH)
    terms = [(head_of("linear", seed), alpha) for seed, alpha in enumerate((0.4, 0.7))]
    start = base.logits(features)
    expected = start + sum(alpha * (head.logits(features) - start) for head, alpha in terms)
    assert relative(heads.interpolate(base, terms).logits(features), expected) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_one_head_at_alpha_1_is_itself_and_at_0_exactly_the_base_head(kind: str) -> None:
    base, head = head_of(kind, 99), head_of(kind)
    assert heads.interpolate(base, [(head, 1.0)]) is head
    at_zero = heads.interpolate(base, [(head, 0.0)])
    assert all(torch.equal(tensor, base.tensors()[name]) for name, tensor in at_zero.tensors().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_head_keeps_kind_and_shapes_and_clips_projection(kind: str) -> None:
    head = head_of(kind)
    first, second = (head.redrawn(torch.Generator().manual_seed(3)) for _ in range(2))
    assert type(first) is type(head)
    bound = head.tensors()["head.weight"].shape[1] ** -0.5
    for name, tensor in first.tensors().items():
        assert tensor.shape == head.tensors()[name].shape
        assert torch.equal(tensor, second.tensors()[name])
        if name == "head.projection":
            assert torch.equal(tensor, head.tensors()[name])
        else:
            assert tensor.abs().max() <= bound


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_moves_with_all_its_tensors(kind: str) -> None:
    moved = head_of(kind).to(device=torch.device("cpu"), dtype=torch.float64)
    assert {tensor.dtype for tensor in moved.tensors().values()} == {torch.float64}
    assert moved.logits(torch.randn(2, WIDTH, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_tensor_of_a_head(kind: str) -> None:
    head = head_of(kind)
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in head.tensors().items()}
    head.replaced(tensors).logits(torch.randn(4, WIDTH)).square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in tensors.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.weight": None}, "lacks head.weight"),
        ({"head.bias": torch.zeros(4)}, r"head.bias has shape \(4,\), expected \(5,\)"),
        ({"head.projection": torch.zeros(9, SHARED)}, r"head.projection has shape \(9, 7\)"),
        ({"head.projection": torch.zeros(WIDTH, 3)}, "head.weight has shape"),
        ({"head.projection": torch.zeros(())}, "head.projection has shape"),
        ({"head.scale": torch.zeros(1)}, "unexpected head.scale"),
    ],
)
def test_a_damaged_clip_head_is_refused_by_name(change: dict[str, Tensor | None], message: str) -> None:
    tensors = {name: t for name, t in (head_of("clip").tensors() | change).items() if t is not None}
    with pytest.raises(Corrupt, match=message):
        heads.load(tensors, classes=CLASSES, width=WIDTH)


@pytest.mark.parametrize(("base", "other"), [("clip", "linear"), ("linear", "clip")])
def test_a_head_of_another_kind_than_the_base_head_is_refused(base: str, other: str) -> None:
    with pytest.raises(Corrupt, match=f"its head is of the {other} kind".replace("clip", "CLIP")) as refused:
        heads.load_like(head_of(base), head_of(other).tensors())
    assert refused.value.remedy


def test_a_head_of_other_shapes_than_the_base_heads_is_refused() -> None:
    wide = ClipHead(
        projection=torch.zeros(WIDTH, 3), weight=torch.zeros(CLASSES, 3), bias=torch.zeros(CLASSES)
    )
    with pytest.raises(Corrupt, match=r"head.projection has shape \(12, 3\), expected \(12, 7\)"):
        heads.load_like(head_of("clip"), wide.tensors())


def test_an_adapter_without_a_head_is_refused() -> None:
    with pytest.raises(Corrupt, match="head lacks"):
        heads.load_like(head_of("clip"), {"blocks.0.x": torch.zeros(1)})


def test_heads_of_both_kinds_and_of_several_widths_share_a_batch() -> None:
    vit, _ = family("clip")
    images = images_of(vit)
    adapters = [adapter_of("clip", vit, 0), adapter_of("linear", vit, 1, classes=9)]
    models = [Model([Term(adapter=a, alpha=alpha)]) for a in adapters for alpha in (0.0, 0.3, 1.0)]
    rows = [Row(image=image, model=model) for model in models for image in range(3)]
    found = Batch(vit).logits(images, rows)
    assert [len(logits) for logits in found] == [CLASSES] * 9 + [9] * 9
    for row, logits in zip(rows, found, strict=True):
        alone = Batch(vit).logits(images[row.image : row.image + 1], [Row(image=0, model=row.model)])[0]
        assert relative(logits, alone) <= 1e-5


def test_a_clip_adapter_at_alpha_0_is_the_zero_shot_classifier() -> None:
    vit, _ = family("clip")
    images, adapter = images_of(vit), adapter_of("clip", vit, 0)
    with torch.no_grad():
        expected = adapter.base_head.logits(vit.forward(images, Sliced(vit, [])))
    model = Model([Term(adapter=adapter, alpha=0.0)])
    found = torch.stack(Batch(vit).logits(images, [Row(image=i, model=model) for i in range(3)]))
    assert relative(found, expected) <= 1e-5


def test_the_interpolated_head_of_a_model_is_made_once() -> None:
    vit, _ = family("clip")
    model = Model([Term(adapter=adapter_of("clip", vit, 0), alpha=0.5)])
    assert model.head is model.head
