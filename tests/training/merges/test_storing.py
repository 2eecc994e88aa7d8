"""What is stored is what was merged: exactly, or as near as the rank allows, and the error is said."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from petl_vit.adapter import Adapter
from petl_vit.edits import Foldable, fold
from petl_vit.methods.merge import Merge
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import adapter_of
from tests.petl_vit.backbones import family
from training.merges.changes import Folded
from training.merges.merging import merged
from training.merges.recipe import Recipe
from training.merges.storing import Storing

Named = dict[str, Tensor]


def members(names: tuple[str, ...], vit: FrozenViT) -> list[Folded]:
    made = [adapter_of(name, vit, seed) for seed, name in enumerate(names)]
    return [Folded(adapter, vit, label=adapter.digest) for adapter in made]


def stored(names: tuple[str, ...], vit: FrozenViT, recipe: Recipe) -> tuple[Named, Storing, Merge]:
    """The merged changes, and what is kept of them."""
    storing = Storing(vit=vit, rank=recipe.rank, products=recipe.kind in ("tsv", "model-stock"))
    changes: Named = {}
    for _, found in merged(members(names, vit), recipe):
        changes |= found
        storing.add(found)
    return changes, storing, storing.method(recipe, ["a", "b"])


def folded(method: Merge, tensors: Named, vit: FrozenViT) -> Named:
    """The change of every parameter that the method makes."""
    edits = [(edit, 1.0) for edit in method.edits(vit, tensors) if isinstance(edit, Foldable)]
    assert len(edits) == len(method.edits(vit, tensors))
    weights = fold(vit.params, edits)
    return {n: w - vit.params.get(n, torch.zeros_like(w)) for n, w in weights.items()}


def differences(changes: Named, found: Named) -> Iterator[tuple[str, float]]:
    for name, change in changes.items():
        yield name, float((found.get(name, torch.zeros_like(change)) - change).abs().max())


@pytest.mark.parametrize("kind", ["dinov2", "dinov3", "swiglu", "siglip"])
@pytest.mark.parametrize("recipe", [Recipe.of("tsv"), Recipe.of("ties")], ids=lambda recipe: recipe.kind)
def test_without_a_rank_everything_is_kept(kind: str, recipe: Recipe) -> None:
    vit, _ = family(kind, dtype=torch.float64, depth=1)
    changes, storing, method = stored(("lora", "ssf", "bitfit", "layernorm", "full"), vit, recipe)
    assert storing.tensors.keys() == method.shapes(vit.arch).keys()
    assert all(t.shape == method.shapes(vit.arch)[name] for name, t in storing.tensors.items())
    assert storing.cut is None
    for name, difference in differences(changes, folded(method, storing.tensors, vit)):
        assert difference <= 1e-12, name


@pytest.mark.parametrize(
    ("kind", "names", "rank"),
    [("tsv", ("lora", "lora"), 6), ("tsv", ("lora", "bitfit"), 3), ("model-stock", ("lora", "bitfit"), 3)],
)
def test_low_ranks_are_products_without_being_asked(kind: str, names: tuple[str, ...], rank: int) -> None:
    vit, _ = family("plain", dtype=torch.float64, depth=1)
    changes, storing, method = stored(names, vit, Recipe.of(kind))
    assert (method.ranks, method.whole) == ({"blocks.0.attn.qkv": rank}, ())
    for name, difference in differences(changes, folded(method, storing.tensors, vit)):
        assert difference <= 1e-12, name


def test_a_rank_cuts_every_linear_to_its_best_product_and_says_what_that_costs() -> None:
    vit, _ = family("plain", dtype=torch.float64, depth=1)
    changes, storing, method = stored(("lora", "lora", "repadapter"), vit, Recipe.of("ties", rank=2))
    found = folded(method, storing.tensors, vit)
    lost, whole, shares = 0.0, 0.0, {}
    for name, change in changes.items():
        if name.endswith("weight") and change.dim() == 2:
            values = np.linalg.svd(change.numpy(), compute_uv=False)
            error = float((found[name] - change).norm())
            assert error == pytest.approx(np.sqrt((values[2:] ** 2).sum()))  # Eckart and Young
            lost, whole = lost + error**2, whole + float((values**2).sum())
            shares[name.removesuffix(".weight")] = error / float(change.norm())
        else:
            assert torch.allclose(found[name], change, atol=1e-12)
    assert method.whole == ()
    assert set(method.ranks.values()) == {2}
    cut = storing.cut
    assert cut is not None
    assert cut.error == pytest.approx((lost / whole) ** 0.5)
    assert (cut.worst, cut.worst_error) == pytest.approx(max(shares.items(), key=lambda item: item[1]))


def test_a_rank_that_is_enough_loses_nothing() -> None:
    vit, _ = family("plain", dtype=torch.float64, depth=1)
    changes, storing, method = stored(("lora", "ssf"), vit, Recipe.of("model-stock", rank=vit.arch.width))
    assert storing.cut is not None
    assert storing.cut.error <= 1e-7
    assert method.scaled == ("patch_embed.proj",)  # exact: only SSF changes the patch embedding, by a scale
    for name, difference in differences(changes, folded(method, storing.tensors, vit)):
        assert difference <= 1e-12, name


def test_what_has_no_rank_stays_whole() -> None:
    vit, _ = family("dinov2", dtype=torch.float64, depth=1)
    _, _, method = stored(("full", "full"), vit, Recipe.of("ties", rank=4))
    assert set(method.whole) == {
        "blocks.0.ls1.gamma",
        "blocks.0.ls2.gamma",
        "cls_token",
        "pos_embed",
        "reg_token",
    }


def test_a_merge_of_vectors_alone_has_no_whole_weights() -> None:
    vit, _ = family("plain", dtype=torch.float64, depth=1)
    _, _, method = stored(("bitfit", "layernorm"), vit, Recipe.of("dare"))
    assert (method.whole, method.ranks) == ((), {})


def test_a_merge_is_a_member_like_any_other() -> None:
    vit, _ = family("plain", dtype=torch.float64, depth=1)
    changes, storing, method = stored(("lora", "ssf"), vit, Recipe.of("ties"))
    like = adapter_of("lora", vit)
    adapter = Adapter.load(
        digest="merge",
        method=method,
        tensors=storing.tensors | like.head.tensors(),
        vit=vit,
        base_head=like.base_head,
        task_digest="task",
    )
    member = Folded(adapter, vit, label="merge")
    found = {name: change for place in member.places for name, change in member.at(place).items()}
    for name, difference in differences(changes, found):
        assert difference <= 1e-12, name
