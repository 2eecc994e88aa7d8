"""A soup is the dense sum of its members' weights where they fold, and the sum of their terms elsewhere."""

import itertools

import pytest
import torch

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.edits import Dense, fold
from petl_vit.errors import InvalidInput, NotFound, Unsupported
from petl_vit.executors.functional import Functional
from petl_vit.executors.sliced import Sliced
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import NAMES, adapter_of, images_of, method_of, random_tensors
from tests.petl_vit.backbones import family, relative

WEIGHTS = (0.25, 0.6)
FOLDABLE = [name for name in NAMES if methods.get(name).foldable]


def soup_of(names: tuple[str, ...], vit: FrozenViT, weights: tuple[float, ...] = WEIGHTS) -> Adapter:
    """The soup of `adapter_of(name, vit)` for each name, with the head that belongs to it."""
    members = [adapter_of(name, vit) for name in names]
    terms = [
        {"weight": weight, "method": name, "config": method_of(name).model_dump(mode="json")}
        for name, weight in zip(names, weights, strict=True)
    ]
    tensors = {
        f"{i}.{key}": tensor
        for i, name in enumerate(names)
        for key, tensor in random_tensors(method_of(name), vit).items()
    }
    base = members[0].base_head
    changes = [(w, m.head) for w, m in zip(weights, members, strict=True)]
    head = LinearHead(
        weight=base.weight + sum(w * (h.weight - base.weight) for w, h in changes),
        bias=base.bias + sum(w * (h.bias - base.bias) for w, h in changes),
    )
    return Adapter.load(
        digest="+".join(names),
        method=methods.get("soup").configure({"terms": terms}),
        tensors=tensors | head.tensors(),
        vit=vit,
        base_head=base,
        task_digest="task",
    )


def rows_of(*terms: tuple[Adapter, float]) -> list[Row]:
    model = Model([Term(adapter=adapter, alpha=alpha) for adapter, alpha in terms])
    return [Row(image=i, model=model) for i in range(3)]


@pytest.mark.parametrize("pair", list(itertools.pairwise([*FOLDABLE, FOLDABLE[0]])), ids="+".join)
def test_a_soup_of_foldable_members_is_their_dense_sum(pair: tuple[str, str]) -> None:
    vit, _ = family("dinov2", dtype=torch.float64)
    soup, images, params = soup_of(pair, vit), images_of(vit), dict(vit.params)
    for name, weight in zip(pair, WEIGHTS, strict=True):
        alone = fold(vit.params, [(edit, 1.0) for edit in adapter_of(name, vit).edits.edits])
        for key, tensor in alone.items():
            frozen = vit.params.get(key, torch.zeros_like(tensor))
            params[key] = params.get(key, torch.zeros_like(tensor)) + weight * (tensor - frozen)
    with torch.no_grad():
        expected = soup.head.logits(vit.forward(images, Sliced(vit, [], params)))
        functional = soup.head.logits(vit.forward(images, Functional(vit, soup.edits.edits)))
    found = torch.stack(Batch(vit).logits(images, rows_of((soup, 1.0))))
    assert relative(found, expected) <= 1e-9
    assert relative(functional, expected) <= 1e-9


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_a_soup_is_the_sum_of_its_members_terms(name: str, alpha: float) -> None:
    vit, _ = family("dinov2")
    images, other = images_of(vit), "lora" if name == "vpt_shallow" else "vpt_shallow"
    soup = soup_of((name, other), vit)
    expected = [(adapter_of(n, vit), alpha * w) for n, w in zip((name, other), WEIGHTS, strict=True)]
    found = torch.stack(Batch(vit).logits(images, rows_of((soup, alpha))))
    assert relative(found, torch.stack(Batch(vit).logits(images, rows_of(*expected)))) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_both_executors_carry_a_soup_out_alike(name: str) -> None:
    vit, _ = family("plain", dtype=torch.float64)
    soup, images = soup_of((name, "vpt_deep"), vit), images_of(vit)
    with torch.no_grad():
        expected = soup.head.logits(vit.forward(images, Functional(vit, soup.edits.edits)))
    assert relative(torch.stack(Batch(vit).logits(images, rows_of((soup, 1.0)))), expected) <= 1e-9


def test_two_full_members_of_a_soup_add_their_changes() -> None:
    vit, _ = family("plain", dtype=torch.float64)
    edits = soup_of(("full", "full"), vit).edits.edits
    assert all(isinstance(edit, Dense) for edit in edits)
    summed = fold(vit.params, [(edit, 1.0) for edit in edits])
    full = fold(vit.params, [(edit, 1.0) for edit in adapter_of("full", vit).edits.edits])
    for name, frozen in vit.params.items():
        assert torch.allclose(summed[name], frozen + sum(WEIGHTS) * (full[name] - frozen))


def test_a_soup_is_found_by_name_and_is_no_choice_of_training() -> None:
    vit, _ = family("plain")
    assert "soup" not in methods.names()
    soup = methods.get("soup").configure({"terms": [{"weight": 1.0, "method": "lora"}]})
    with pytest.raises(Unsupported, match="adapters soup"):
        soup.init(vit, torch.Generator())


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ([], "at least 1 item"),
        ([{"weight": 0.0, "method": "lora"}], "greater than 0"),
        ([{"weight": 1.5, "method": "lora"}], "less than or equal to 1"),
        ([{"weight": 0.5, "method": "lora", "config": {"rank": 0}}], "greater than or equal to 1"),
        ([{"weight": 0.5, "method": "lroa"}], "no method 'lroa'"),
    ],
)
def test_a_soup_that_cannot_be_is_refused(terms: list[object], said: str) -> None:
    with pytest.raises((InvalidInput, NotFound), match=said):
        methods.get("soup").configure({"terms": terms})
