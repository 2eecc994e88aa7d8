"""Rows of different adapters in one forward: each is what it is alone."""

import dataclasses
import itertools
import random
from typing import Any

import pytest
import torch

from petl_vit import methods
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.edits import fold
from petl_vit.errors import InvalidInput
from petl_vit.executors.functional import Functional
from petl_vit.executors.sliced import Sliced
from petl_vit.heads import LinearHead
from petl_vit.noise import Noise
from petl_vit.products import Params
from petl_vit.slots import Slots
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import NAMES, WHOLE, adapter_of, images_of, names_on
from tests.petl_vit.backbones import family, relative

pytestmark = pytest.mark.numerics


def wise(adapter, alpha=1.0) -> Model:
    return Model([Term(adapter=adapter, alpha=alpha)])


@pytest.mark.parametrize("kind", WHOLE)
def test_mixed_rows_equal_each_row_alone(kind: str) -> None:
    vit, _ = family(kind)
    images = images_of(vit)
    adapters = [adapter_of(name, vit, seed) for name, seed in itertools.product(names_on(kind), (0, 1))]
    models = [wise(a, alpha) for a, alpha in zip(adapters, itertools.cycle((1.0, 0.3)), strict=False)]
    models.append(Model([Term(adapter=a, alpha=0.2) for a in adapters]))
    models.append(Model([Term(adapter=adapters[0], alpha=0.5), Term(adapter=adapters[-1], alpha=0.5)]))
    order = torch.randperm(3 * len(models), generator=torch.Generator().manual_seed(4)).tolist()
    rows = [Row(image=i % 3, model=models[i // 3]) for i in order]
    together = Batch(vit).logits(images, rows)
    for place, row, found in zip(order, rows, together, strict=True):
        if place // 3 % 3 == row.image:  # of every model on one image
            alone = Batch(vit).logits(images[row.image : row.image + 1], [Row(image=0, model=row.model)])[0]
            assert relative(found, alone) <= 1e-5


def _sum(vit: FrozenViT, *terms: tuple[str, int, float]) -> Model:
    """A sum of adapters by method, seed and alpha."""
    return Model([Term(adapter=adapter_of(name, vit, seed), alpha=alpha) for name, seed, alpha in terms])


@pytest.mark.parametrize("kind", ["plain", "dinov2"])
@pytest.mark.parametrize("aliased", [True, False], ids=["aliased", "stacked"])
def test_adapters_with_several_rows_at_several_alphas_answer_each_as_alone(kind: str, aliased: bool) -> None:
    vit, _ = family(kind, dtype=torch.float64)
    images = images_of(vit)
    times = (1, 2, 2, 3)  # rows of each of four adapters of every method: those with two stack
    alphas = itertools.cycle((1.0, 0.3, 0.7, 0.0))
    rows = [
        Row(image=i % len(images), model=_sum(vit, (name, seed, next(alphas))))
        for name in NAMES
        for seed, count in enumerate(times)
        for i in range(count)
    ]
    soups = [
        _sum(vit, ("lora", 0, 1.0), (other, seed, 0.4))
        for other in ("vpt_deep", "convpass")
        for seed in (1, 2)
    ]
    # The same two adapters, of which now one and now the other edits nothing.
    for name in ("lora", "vqt"):
        soups += [_sum(vit, (name, 0, a), (name, 1, b)) for a, b in ((0.0, 1.0), (1.0, 0.0), (0.5, 0.5))]
    rows += [Row(image=i % len(images), model=soup) for soup in soups for i in range(2)]
    random.Random(3).shuffle(rows)

    together = Batch(vit, slots=Slots(aliased=aliased)).logits(images, rows)

    for row, found in list(zip(rows, together, strict=True))[::2]:  # in no order, so of all adapters
        (alone,) = Batch(vit).logits(images[row.image : row.image + 1], [Row(image=0, model=row.model)])
        assert relative(found, alone) <= 1e-9, row.model.key


def test_frozen_rows_are_not_touched_by_their_neighbours() -> None:
    vit, _ = family("plain")
    images = images_of(vit)
    edited = [adapter_of(name, vit) for name in NAMES if name not in ("linear", "full")]
    frozen = adapter_of("linear", vit)
    rows = [Row(image=i, model=wise(m)) for i in range(3) for m in [*edited, frozen]]
    found = Batch(vit).logits(images, rows)
    with torch.no_grad():
        expected = frozen.head.logits(vit.forward(images, Sliced(vit, [])))
    for i in range(3):
        assert relative(found[i * (len(edited) + 1) + len(edited)], expected[i]) <= 1e-5


def test_the_frozen_parameters_stay_as_they_are() -> None:
    vit, _ = family("plain")
    before = {name: p.clone() for name, p in vit.params.items()}
    rows = [Row(image=0, model=wise(adapter_of(name, vit), 0.5)) for name in NAMES]
    Batch(vit).logits(images_of(vit), rows)
    assert all(torch.equal(before[name], p) for name, p in vit.params.items())


def test_heads_of_different_widths_share_a_batch() -> None:
    vit, _ = family("plain")
    wide = adapter_of("lora", vit)
    rows = [Row(image=0, model=wise(wide))]
    head = LinearHead.init(9, vit.arch.width, torch.Generator().manual_seed(0))
    other = dataclasses.replace(wide, digest="wider", head=head, base_head=head, task_digest="other")
    rows.append(Row(image=0, model=wise(other)))
    assert [len(z) for z in Batch(vit).logits(images_of(vit), rows)] == [5, 9]


FOLDABLE = [name for name in NAMES if methods.get(name).foldable]
RING = [*itertools.pairwise(FOLDABLE), (FOLDABLE[-1], FOLDABLE[0])]


@pytest.mark.parametrize("pair", RING, ids="+".join)
def test_a_sum_of_foldable_adapters_is_the_sum_of_their_weight_changes(pair: tuple[str, str]) -> None:
    vit, _ = family("dinov2", dtype=torch.float64)
    images, weights = images_of(vit), (0.4, 0.7)
    adapters = [adapter_of(name, vit) for name in pair]
    model = Model([Term(adapter=a, alpha=w) for a, w in zip(adapters, weights, strict=True)])
    found = torch.stack(Batch(vit).logits(images, [Row(image=i, model=model) for i in range(3)]))
    params = dict(vit.params)
    for adapter, weight in zip(adapters, weights, strict=True):  # each folded alone, then summed densely
        alone = fold(vit.params, [(edit, 1.0) for edit in adapter.edits.edits])
        for name, tensor in alone.items():
            frozen = vit.params.get(name, torch.zeros_like(tensor))
            params[name] = params.get(name, torch.zeros_like(tensor)) + weight * (tensor - frozen)
    with torch.no_grad():
        expected = model.logits(vit.forward(images, Sliced(vit, [], params)))
    assert relative(found, expected) <= 1e-9


def test_a_sum_over_base_heads_of_different_tasks_is_refused() -> None:
    vit, _ = family("plain")
    first, second = adapter_of("lora", vit), adapter_of("ssf", vit)
    with pytest.raises(InvalidInput, match="different tasks"):
        Model([Term(adapter=first), Term(adapter=dataclasses.replace(second, task_digest="other"))])


def test_a_negative_alpha_on_prompts_is_refused() -> None:
    vit, _ = family("plain")
    with pytest.raises(InvalidInput, match="alpha"):
        wise(adapter_of("vpt_deep", vit), -0.5)


def test_queries_weigh_tokens_by_their_alpha_as_all_others_do() -> None:
    vit, _ = family("plain", dtype=torch.float64)
    images = images_of(vit, 1)
    found = {
        alpha: Batch(vit).logits(
            images, [Row(image=0, model=_sum(vit, ("vqt", 0, 1.0), ("vpt_shallow", 1, alpha)))]
        )[0]
        for alpha in (0.0, 1e-9, 1.0)
    }
    assert relative(found[1e-9], found[0.0]) <= 1e-6
    assert relative(found[1.0], found[0.0]) > 1e-3


def test_drop_path_keeps_the_expected_share_of_rows_and_the_mean() -> None:
    vit, _ = family("plain")
    stream, out = torch.zeros(4000, 1, 8), torch.ones(4000, 1, 8)
    run = Functional(vit, [], noise=Noise(torch.device("cpu"), 0), drop_path=0.4)
    last = vit.arch.depth - 1
    kept = run.add(f"blocks.{last}.mlp", stream, stream, out)
    rows = (kept.flatten(1) != 0).all(dim=1)
    assert abs(float(rows.float().mean()) - 0.6) < 0.03
    assert torch.allclose(kept[rows], torch.tensor(1 / 0.6))
    assert torch.equal(run.add("blocks.0.mlp", stream, stream, out), out)
    assert torch.equal(Functional(vit, [], drop_path=0.4).add(f"blocks.{last}.mlp", stream, stream, out), out)


def test_interpolated_full_models_are_kept_for_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    folded: list[Params] = []

    def counted(*given: Any) -> Params:
        folded.append(fold(*given))
        return folded[-1]

    monkeypatch.setattr("petl_vit.batch.fold", counted)
    vit, _ = family("plain")
    batch, model = Batch(vit, folded_models=1), wise(adapter_of("full", vit), 0.5)
    rows = [Row(image=0, model=model)]
    first = batch.logits(images_of(vit), rows)[0]
    batch.logits(images_of(vit), rows)
    assert len(folded) == 1
    batch.logits(images_of(vit), [Row(image=0, model=wise(adapter_of("full", vit), 0.6))])
    assert torch.equal(batch.logits(images_of(vit), rows)[0], first)
    assert len(folded) == 3
