"""Merges are the papers' equations, whatever methods and ranks the members have."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.errors import Unsupported
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import adapter_of, adapter_with
from tests.petl_vit.backbones import family
from tests.training.merges import plain
from training.merges.changes import Folded
from training.merges.dare import Dropped
from training.merges.merging import merged, merged_head
from training.merges.recipe import Recipe

MEMBERS = ("lora", "wide", "ssf", "full")


@cache
def backbone(kind: str = "plain") -> FrozenViT:
    vit, _ = family(kind, dtype=torch.float64, depth=1)
    return vit


@cache
def adapter(name: str, kind: str = "plain") -> Adapter:
    vit = backbone(kind)
    if name != "wide":
        return adapter_of(name, vit)
    config = {"rank": 7, "targets": ("qkv", "fc2")}
    return adapter_with(methods.get("lora").configure(config), vit, seed=5)


def folded(name: str, kind: str = "plain") -> Folded:
    return Folded(adapter(name, kind), backbone(kind), label=name)


def merge(names: tuple[str, ...], recipe: Recipe, kind: str = "plain") -> plain.Vector:
    """Every parameter's merged change, those that are left alone among them."""
    found = dict[str, Tensor]()
    for _, changes in merged([folded(name, kind) for name in names], recipe):
        found |= changes
    vector = {name: np.zeros(shape) for name, shape in backbone(kind).arch.shapes.items()}
    return vector | {name: change.numpy() for name, change in found.items()}


def vectors(names: tuple[str, ...], kind: str = "plain") -> list[plain.Vector]:
    found = [plain.task_vector(adapter(name, kind), backbone(kind)) for name in names]
    shapes = {name: change.shape for vector in found for name, change in vector.items()}
    return [{n: vector.get(n, np.zeros(shape)) for n, shape in sorted(shapes.items())} for vector in found]


def check(found: plain.Vector, expected: plain.Vector) -> None:
    largest = max(float(np.abs(change).max()) for change in expected.values())
    assert largest > 0
    assert found.keys() == expected.keys()
    for name, change in expected.items():
        assert np.abs(found[name] - change).max() <= 1e-10 * largest, name


@pytest.mark.parametrize("density", [0.2, 1.0])
def test_ties_is_its_equation_over_members_of_unequal_ranks_and_methods(density: float) -> None:
    names = ("lora", "wide", "ssf")
    check(merge(names, Recipe.of("ties", density=density)), plain.ties(vectors(names), density))


def test_tsv_is_its_equation_where_the_members_fill_the_weights() -> None:
    names = ("full", "ssf")
    check(merge(names, Recipe.of("tsv")), plain.tsv(vectors(names)))


def test_tsv_of_low_ranks_is_its_equation_over_what_is_not_zero() -> None:
    """The equation's own singular vectors of zero values are arbitrary; here they are left out."""
    (lora, wide), name = vectors(("lora", "wide")), "blocks.0.attn.qkv.weight"
    found = merge(("lora", "wide"), Recipe.of("tsv"))[name]
    (u, s, vt), (u2, s2, vt2) = (np.linalg.svd(v[name], full_matrices=False) for v in (lora, wide))
    left, right = np.hstack([u[:, :3], u2[:, :7]]), np.vstack([vt[:3], vt2[:7]])
    sigma = np.diag([*s[:3], *s2[:7]])
    expected = plain.procrustes(left) @ sigma @ plain.procrustes(right)
    assert np.abs(found - expected).max() <= 1e-10 * np.abs(expected).max()
    assert np.linalg.matrix_rank(found, tol=1e-9) == 10


def test_tsv_of_equal_members_is_that_member() -> None:
    check(merge(("lora", "lora"), Recipe.of("tsv")), vectors(("lora",))[0])


def test_model_stock_is_its_equation() -> None:
    made = [adapter_of("full", backbone(), seed, start=backbone()) for seed in (1, 2, 3)]
    members = [Folded(each, backbone(), label=each.digest) for each in made]
    found = dict[str, Tensor]()
    for _, changes in merged(members, Recipe.of("model-stock")):
        found |= changes
    expected = plain.model_stock([plain.task_vector(each, backbone()) for each in made])
    check({name: change.numpy() for name, change in found.items()}, expected)


def test_model_stock_keeps_the_uniform_share_where_one_member_alone_changes_a_parameter() -> None:
    found = merge(("lora", "full"), Recipe.of("model-stock"))
    _, full = vectors(("lora", "full"))
    assert np.allclose(found["blocks.0.mlp.fc1.weight"], full["blocks.0.mlp.fc1.weight"] / 2)
    both = found["blocks.0.attn.qkv.weight"] / sum(
        v["blocks.0.attn.qkv.weight"] for v in vectors(("lora", "full"))
    )
    assert both.max() < 0.5  # t < 1


def test_dare_drops_the_rate_and_rescales_the_rest() -> None:
    member = folded("full")
    kept, entries = 0, 0
    for place in member.places:
        before, after = member.at(place), Dropped(member, 0.7, 3).at(place)
        for name, change in before.items():
            alive = after[name] != 0
            assert torch.allclose(after[name][alive], change[alive] / 0.3, rtol=1e-14)
            kept, entries = kept + int(alive.sum()), entries + change.numel()
    assert kept / entries == pytest.approx(0.3, abs=0.01)


def test_dare_is_the_mean_of_what_was_not_dropped() -> None:
    names = ("lora", "ssf", "full")
    found = merge(names, Recipe.of("dare", drop_rate=0.9, seed=4))
    dropped = [Dropped(folded(name), 0.9, 4) for name in names]
    for place in ("blocks.0.attn.qkv", "norm"):
        for name in folded("full").at(place):
            parts = [member.at(place).get(name, torch.zeros(())) for member in dropped]
            assert np.allclose(found[name], sum(part.numpy() for part in parts) / 3, rtol=1e-12)


def test_dare_without_dropping_is_the_uniform_soup() -> None:
    names = ("lora", "wide", "ssf")
    parts = vectors(names)
    check(merge(names, Recipe.of("dare", drop_rate=0.0)), {n: sum(v[n] for v in parts) / 3 for n in parts[0]})


def test_ties_after_dare_is_ties_of_what_was_not_dropped() -> None:
    names = ("lora", "wide")
    recipe = Recipe.of("ties", density=0.5, drop_rate=0.4, seed=1)
    found = merge(names, recipe)
    dropped = []
    for name in names:
        member, vector = Dropped(folded(name), 0.4, 1), vectors(names)[0]
        changes = {n: c.numpy() for place in member.places for n, c in member.at(place).items()}
        dropped.append({n: changes.get(n, np.zeros_like(like)) for n, like in vector.items()})
    check(found, plain.ties(dropped, 0.5))


def test_a_merge_depends_on_the_seed_and_not_on_the_order_of_its_members() -> None:
    first = merge(("lora", "full"), Recipe.of("dare", seed=1))
    again = merge(("full", "lora"), Recipe.of("dare", seed=1))
    other = merge(("full", "lora"), Recipe.of("dare", seed=2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("kind", ["swiglu", "dinov3", "siglip"])
def test_every_foldable_method_folds_as_it_does_alone(kind: str) -> None:
    known = [n for n in methods.names() if methods.get(n).foldable and n != "linear"]
    for name in [n for n in known if not (kind == "swiglu" and n.startswith("fact"))]:
        expected = plain.task_vector(adapter(name, kind), backbone(kind))
        member = folded(name, kind)
        found = {n: c for place in member.places for n, c in member.at(place).items()}
        for key, change in expected.items():
            zero = torch.zeros(change.shape, dtype=torch.float64)
            assert np.abs(found.get(key, zero).numpy() - change).max() <= 1e-12, (name, key)


@pytest.mark.parametrize("name", ["adaptformer", "vpt_deep", "vpt_shallow", "vqt"])
def test_members_that_are_no_weights_are_refused_by_name(name: str) -> None:
    with pytest.raises(Unsupported, match=rf"{name} \({name}\) is no change of weights.*uniform or greedy"):
        folded(name)


@pytest.mark.parametrize("kind", ["ties", "dare", "tsv"])
def test_heads_are_averaged(kind: str) -> None:
    heads = [adapter(name).head for name in ("lora", "wide", "ssf")]
    found = merged_head(adapter("lora").base_head, heads, Recipe.of(kind))
    for name in ("head.weight", "head.bias"):
        expected = torch.stack([head.tensors()[name] for head in heads]).mean(dim=0)
        assert torch.allclose(found[name], expected, rtol=1e-12)


def test_model_stock_merges_heads_by_its_own_rule() -> None:
    heads, base = [adapter(name).head for name in ("lora", "wide")], adapter("lora").base_head
    assert isinstance(base, LinearHead)
    found = merged_head(base, heads, Recipe.of("model-stock"))["head.weight"]
    one, two = ((head.tensors()["head.weight"] - base.weight).flatten() for head in heads)
    cosine = one @ two / (one.norm() * two.norm())
    t = (2 * cosine / (1 + cosine)).clamp(0, 1)
    assert torch.allclose(found.flatten(), base.weight.flatten() + t * (one + two) / 2, rtol=1e-10)
