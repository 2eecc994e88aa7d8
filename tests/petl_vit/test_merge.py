"""The method `merge`: what is stored of a merge runs as products, vectors and whole weights."""

import pytest
import torch

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.edits import Foldable, fold
from petl_vit.errors import InvalidInput, Unsupported
from petl_vit.executors.functional import Functional
from petl_vit.executors.sliced import Sliced
from petl_vit.methods.method import Method
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import adapter_of, images_of
from tests.petl_vit.backbones import family, relative

CONFIG = {
    "kind": "ties",
    "members": ["a", "b"],
    "settings": {"density": 0.2, "rank": 3},
    "ranks": {"blocks.0.attn.qkv": 3, "blocks.1.mlp.fc1": 2, "blocks.2.mlp.fc2": 1},
    "scaled": ["patch_embed.proj"],
    "shifted": ["patch_embed.proj", "blocks.0.attn.qkv", "blocks.1.mlp.fc2"],
    "norms": ["blocks.1.norm1", "norm"],
}
WHOLE = {"whole": ["blocks.2.attn.proj.weight", "cls_token"]}


def merge(**changes: object) -> Method:
    return methods.get("merge").configure(CONFIG | changes)


def adapter(method: Method, vit: FrozenViT) -> Adapter:
    generator = torch.Generator().manual_seed(3)
    tensors = {
        name: (0.05 * torch.randn(shape, generator=generator) + name.endswith(".scale")).to(vit.dtype)
        for name, shape in method.shapes(vit.arch).items()
    }
    like = adapter_of("lora", vit)
    return Adapter.load(
        digest="merge",
        method=method,
        tensors=tensors | like.head.tensors(),
        vit=vit,
        base_head=like.base_head,
        task_digest="task",
    )


@pytest.mark.parametrize("alpha", [0.4, 1.0])
@pytest.mark.parametrize("changes", [{}, WHOLE], ids=["products", "whole"])
@pytest.mark.parametrize("kind", ["dinov2", "swiglu", "dinov3"])
def test_it_runs_beside_others_as_its_folded_weights_do(
    kind: str, changes: dict[str, object], alpha: float
) -> None:
    vit, _ = family(kind, dtype=torch.float64)
    made, other, images = adapter(merge(**changes), vit), adapter_of("lora", vit, 9), images_of(vit)
    edits = [(edit, alpha) for edit in made.edits.edits if isinstance(edit, Foldable)]
    model = Model([Term(adapter=made, alpha=alpha)])
    with torch.no_grad():
        expected = model.logits(vit.forward(images, Sliced(vit, [], fold(vit.params, edits))))
    rows = [Row(image=i, model=m) for i in range(3) for m in (model, Model([Term(adapter=other)]))]
    found = torch.stack(Batch(vit).logits(images, rows)[::2])
    assert relative(found, expected) <= 1e-9
    if alpha == 1:
        with torch.no_grad():
            functional = model.logits(vit.forward(images, Functional(vit, made.edits.edits)))
        assert relative(functional, expected) <= 1e-9


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "soup"}, "merge.kind"),
        ({"members": ["a"]}, "at least 2 items"),
        ({"ranks": {"blocks.0.attn.qkv": 0}}, "greater than or equal to 1"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        merge(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"ranks": {"blocks.7.attn.qkv": 1}},
        {"scaled": ["blocks.0.attn"]},
        {"norms": ["norm3"]},
        {"whole": ["head"]},
    ],
)
def test_a_merge_for_another_backbone_is_refused(changes: dict[str, object]) -> None:
    vit, _ = family("plain")
    with pytest.raises(InvalidInput, match=r"there is no .*; it was made for another backbone"):
        merge(**changes).shapes(vit.arch)


def test_a_merge_is_no_choice_of_training() -> None:
    vit, _ = family("plain")
    assert "merge" not in methods.names()
    with pytest.raises(Unsupported, match="adapters soup --kind"):
        merge().init(vit, torch.Generator())
