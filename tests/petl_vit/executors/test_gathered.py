"""Edits gathered from banks are the edits of the other executors."""

import pytest
import torch
from torch import Tensor

from petl_vit.adapter import Adapter
from petl_vit.edit_set import NO_FORM
from petl_vit.executors.functional import Functional
from petl_vit.executors.gathered import Gathered, Lookup
from petl_vit.executors.lanes import Lane
from petl_vit.executors.sliced import Sliced
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import NAMES, PAIRS, adapter_of, images_of, names_on
from tests.petl_vit.backbones import FAMILIES, family, relative

LOOSE = ("full", "selective", "vpt_shallow", "vqt")
STACKING = [name for name in NAMES if name not in (*LOOSE, "linear")]


def lookup(adapters: list[Adapter], slots: list[int], alphas: list[float]) -> Lookup:
    """Adapters of one form in the slots from 1 on; slot 0 has what nobody may ever read."""
    flats = [adapter.edits.flat for adapter in adapters]
    bank = torch.stack([torch.full_like(flats[0], torch.nan), *flats])
    return Lookup(
        form=adapters[0].edits, bank=bank, slots=torch.tensor(slots), alphas=bank.new_tensor(alphas)
    )


@torch.no_grad()
def run(vit: FrozenViT, images: Tensor, lookups: list[Lookup]) -> Tensor:
    return vit.forward(images, Gathered(vit, lookups))


@torch.no_grad()
def alone(vit: FrozenViT, image: Tensor, *terms: tuple[Adapter, float]) -> Tensor:
    lanes = [
        Lane(rows=slice(0, 1), edits=adapter.edits, alpha=image.new_full((1, 1, 1), alpha))
        for adapter, alpha in terms
    ]
    return vit.forward(image.unsqueeze(0), Sliced(vit, lanes))[0]


@pytest.mark.parametrize(("name", "kind"), [pair for pair in PAIRS if pair[0] in STACKING])
def test_rows_equal_both_other_executors(name: str, kind: str) -> None:
    vit, _ = family(kind, dtype=torch.float64)
    images, (first, second) = images_of(vit), (adapter_of(name, vit, seed) for seed in (0, 1))

    found = run(vit, images, [lookup([first, second], [2, 0, 1], [0.3, 0.0, 1.0])])

    assert relative(found[0], alone(vit, images[0], (second, 0.3))) <= 1e-9
    assert relative(found[1], alone(vit, images[1])) <= 1e-9
    assert relative(found[2], alone(vit, images[2], (first, 1.0))) <= 1e-9
    with torch.no_grad():
        functional = vit.forward(images[2:], Functional(vit, first.edits.edits))
    assert relative(found[2:], functional) <= 1e-9


@pytest.mark.parametrize("kind", FAMILIES)
def test_all_methods_share_a_forward_and_sum_on_a_row(kind: str) -> None:
    vit, _ = family(kind, dtype=torch.float64)
    adapters = [adapter_of(name, vit) for name in names_on(kind) if name in STACKING]
    images = images_of(vit, len(adapters) + 1)
    count = len(adapters)
    lookups = []
    for number, adapter in enumerate(adapters):  # each on a row of its own, and all on the last
        alphas = [0.7 if row == number else 0.0 for row in range(count)]
        lookups.append(lookup([adapter], [1 if alpha else 0 for alpha in alphas] + [1], [*alphas, 0.2]))

    found = run(vit, images, lookups)

    for row, adapter in enumerate(adapters):
        assert relative(found[row], alone(vit, images[row], (adapter, 0.7))) <= 1e-9
    together = alone(vit, images[-1], *((adapter, 0.2) for adapter in adapters))
    assert relative(found[-1], together) <= 1e-9


def test_two_adapters_of_one_form_on_a_row_are_two_lookups() -> None:
    vit, _ = family("plain", dtype=torch.float64)
    images, loras = images_of(vit, 1), [adapter_of("lora", vit, seed) for seed in (0, 1)]

    found = run(vit, images, [lookup(loras, [1], [0.4]), lookup(loras, [2], [-0.5])])

    assert relative(found[0], alone(vit, images[0], (loras[0], 0.4), (loras[1], -0.5))) <= 1e-9


def test_without_lookups_it_is_the_frozen_backbone() -> None:
    vit, _ = family("plain", dtype=torch.float64)
    images = images_of(vit)

    found = run(vit, images, [])

    assert relative(found[1], alone(vit, images[1])) <= 1e-12


@pytest.mark.parametrize("name", LOOSE)
def test_edits_that_stack_with_nothing_are_not_for_it(name: str) -> None:
    vit, _ = family("plain")
    edits = adapter_of(name, vit).edits
    nothing = Lookup(form=edits, bank=torch.zeros(1, 0), slots=torch.zeros(1).long(), alphas=torch.ones(1))

    assert edits.form == NO_FORM
    with pytest.raises(AssertionError, match="stack"):
        Gathered(vit, [nothing])
