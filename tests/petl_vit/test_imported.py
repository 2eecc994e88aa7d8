"""Imported edits, `Input` among them: what they do is their weight change, in every executor."""

from typing import Any

import pytest
import torch
from torch import Tensor

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.arena import Layout
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.edit_set import NO_FORM, EditSet
from petl_vit.edits import Foldable, fold, scaled
from petl_vit.errors import InvalidInput, Unsupported
from petl_vit.executors.functional import Functional
from petl_vit.executors.gathered import Gathered, Lookup
from petl_vit.executors.joint import Joint, Learner
from petl_vit.precision import Precision
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import adapter_of, images_of
from tests.petl_vit.backbones import family, relative
from tests.petl_vit.imported import KINDS, imported, method_of, tensors_of

STACKING = ("diagonal", "turned", "all")


def merged(vit: FrozenViT, *terms: tuple[Adapter, float]) -> FrozenViT:
    """The backbone with the weight changes added."""
    changes = [(e, a) for adapter, a in terms for e in adapter.edits.edits if isinstance(e, Foldable)]
    other = vit.to()
    other.params = fold(vit.params, changes)
    return other


@torch.no_grad()
def features(vit: FrozenViT, images: Tensor) -> Tensor:
    return vit.forward(images, Functional(vit, []))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_model_with_interpolated_weights(kind: str) -> None:
    vit, _ = family("plain", dtype=torch.float64)
    adapter, ssf, images = imported(kind, vit), adapter_of("ssf", vit), images_of(vit)
    terms = [[(adapter, 1.0)], [(adapter, 0.5)], [(adapter, 0.4), (ssf, 0.7)]]

    models = [Model([Term(adapter=a, alpha=alpha) for a, alpha in own]) for own in terms]
    found = Batch(vit).logits(images, [Row(image=i, model=model) for i, model in enumerate(models)])

    for i, own in enumerate(terms):
        expected = models[i].logits(features(merged(vit, *own), images[i : i + 1]))[0]
        assert relative(found[i], expected) <= 1e-9


def test_rows_of_adapters_of_one_form_stack() -> None:
    vit, _ = family("plain", dtype=torch.float64)
    adapters, images = [imported("all", vit, seed) for seed in range(3)], images_of(vit)
    assert len({adapter.edits.form for adapter in adapters}) == 1
    models = [Model([Term(adapter=a, alpha=alpha)]) for a, alpha in zip(adapters, (1, 0.5, 2), strict=True)]
    rows = [Row(image=i, model=model) for model in models for i in range(2)]

    found = Batch(vit).logits(images, rows)

    for row, logits in zip(rows, found, strict=True):
        (alone,) = Batch(vit).logits(images, [row])
        assert relative(logits, alone) <= 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_near(kind: str) -> None:
    vit, _ = family("plain")
    narrow, images = vit.in_precision(Precision.BF16), images_of(vit)
    adapter = imported(kind, vit)
    rows = [Row(image=i, model=Model([Term(adapter=adapter, alpha=0.5)])) for i in range(3)]

    found = torch.stack(Batch(narrow).logits(images, rows))

    assert relative(found, torch.stack(Batch(vit).logits(images, rows))) <= 0.05


@pytest.mark.parametrize("kind", STACKING)
def test_gathered_and_joint_are_functional(kind: str) -> None:
    vit, _ = family("plain", dtype=torch.float64)
    adapter, images = imported(kind, vit), images_of(vit)
    with torch.no_grad():
        expected = vit.forward(images, Functional(vit, adapter.edits.edits))
        lookup = Lookup(
            form=adapter.edits,
            bank=adapter.edits.flat.unsqueeze(0),
            slots=torch.zeros(3, dtype=torch.int64),
            alphas=images.new_tensor([1.0, 0.0, 0.5]),
        )
        found = vit.forward(images, Gathered(vit, [lookup]))
    assert relative(found[0], expected[0]) <= 1e-9
    assert relative(found[1], features(vit, images)[1]) <= 1e-9

    learners = [
        Learner(rows=1, edits=adapter.edits.edits, drop_path=0.0, noise=None),
        Learner(rows=2, edits=adapter_of("lora", vit).edits.edits, drop_path=0.0, noise=None),
    ]
    with torch.no_grad():
        assert relative(vit.forward(images, Joint(vit, learners))[0], expected[0]) <= 1e-9


def test_gradients_reach_an_input_edit() -> None:
    vit, _ = family("plain", dtype=torch.float64)
    images = images_of(vit)

    def gradients(joint: bool) -> list[Tensor]:
        tensors = {n: t.requires_grad_() for n, t in tensors_of("turned", vit).items()}
        edits = method_of("turned").edits(vit, tensors)
        run = (
            Joint(vit, [Learner(rows=3, edits=edits, drop_path=0.0, noise=None)])
            if joint
            else Functional(vit, edits)
        )
        vit.forward(images, run).square().sum().backward()
        return [t.grad for t in tensors.values() if t.grad is not None]

    for found, expected in zip(gradients(True), gradients(False), strict=True):
        assert relative(found, expected) <= 1e-9
        assert float(expected.abs().max()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_scaled_edit_is_its_alpha(kind: str) -> None:
    vit, _ = family("plain", dtype=torch.float64)
    adapter, images = imported(kind, vit), images_of(vit)
    with torch.no_grad():
        found = vit.forward(images, Functional(vit, [scaled(edit, 0.5) for edit in adapter.edits.edits]))
    assert relative(found, features(merged(vit, (adapter, 0.5)), images)) <= 1e-9


def test_an_input_edit_does_not_keep_the_backbone() -> None:
    vit, _ = family("plain")
    adapter = imported("turned", vit)
    assert adapter.nbytes < 10 * sum(t.nbytes for t in tensors_of("turned", vit).values())
    assert adapter.edits.form != NO_FORM
    assert Layout(vit.arch).column(adapter.edits) is None, "the kernels leave it to the other executors"
    assert EditSet(adapter.edits.edits).over(vit.params).all_tensors()[0] is adapter.edits.all_tensors()[0]


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        ({"edit": "affine", "site": "blocks.0.attn"}, "no site of a linear"),
        ({"edit": "norm", "site": "blocks.0.attn.qkv"}, "no LayerNorm"),
        ({"edit": "low_rank", "site": "patch_embed.proj", "rank": 1}, "no site of a linear"),
        ({"edit": "low_rank", "site": "blocks.0.attn.qkv", "rank": 1, "parts": 7}, "no 7 equal parts"),
        ({"edit": "input", "site": "blocks.0.attn.qkv", "block": 7}, "no blocks of 7"),
        ({"edit": "input", "site": "blocks.0.attn.qkv", "outputs": (200, 400)}, "no run of them"),
        ({"edit": "input", "site": "blocks.0.attn.qkv", "outputs": (9, 4)}, "no run of them"),
    ],
)
def test_an_edit_that_the_forward_cannot_carry_out_is_refused(edit: dict[str, Any], problem: str) -> None:
    vit, _ = family("plain")
    with pytest.raises(InvalidInput, match=problem):
        methods.get("imported").configure({"parts": [edit]}).shapes(vit.arch)


def test_a_site_that_the_backbone_lacks_is_refused() -> None:
    vit, _ = family("plain")
    method = methods.get("imported").configure({"parts": [{"edit": "dense", "site": "blocks.7.attn.qkv"}]})
    with pytest.raises(InvalidInput, match=r"no linear 'blocks\.7\.attn\.qkv'"):
        method.shapes(vit.arch)
    with pytest.raises(Unsupported, match="not trained"):
        method.init(vit, torch.Generator())
