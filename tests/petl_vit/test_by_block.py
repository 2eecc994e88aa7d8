"""Alphas by block: exact, in a batch with any others, and with one alpha the same as ever."""

import itertools

import pytest
import torch
from torch import Tensor

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.edit_set import block_of
from petl_vit.edits import fold, scaled
from petl_vit.errors import InvalidInput
from petl_vit.executors.functional import Functional
from petl_vit.executors.sliced import Sliced
from petl_vit.slots import Slots
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import NAMES, adapter_of, images_of
from tests.petl_vit.backbones import DEPTH, family, relative

pytestmark = pytest.mark.numerics

RISING = (0.2, 0.6, 1.0)
LATE = (0.0, 0.7, 0.7)
EARLY = (0.6, 0.0, 0.0)
BY_BLOCK = [name for name in NAMES if methods.get(name).by_block]
FOLDABLE = [name for name in BY_BLOCK if methods.get(name).foldable]
WHOLE = [name for name in NAMES if not methods.get(name).by_block]


def by_block(adapter: Adapter, *alphas: tuple[float, ...]) -> Model:
    return Model([Term(adapter=adapter, alpha=alpha) for alpha in alphas])


def logits(vit: FrozenViT, models: list[Model], *, slots: Slots | None = None) -> list[Tensor]:
    """[n, C] of each model over three images, all rows in one batch."""
    images = images_of(vit)
    rows = [Row(image=i, model=model) for i in range(len(images)) for model in models]
    found = Batch(vit, slots=slots).logits(images, rows)
    return [torch.stack(found[place :: len(models)]) for place in range(len(models))]


def block_named_in(parameter: str) -> int:
    """The block whose alpha a parameter has."""
    if parameter.startswith("blocks."):
        return int(parameter.split(".")[1])
    return DEPTH - 1 if parameter.startswith(("norm.", "fc_norm.")) else 0


def head_at(adapter: Adapter, alpha: float, features: Tensor) -> Tensor:
    base, trained = adapter.base_head.logits(features), adapter.head.logits(features)
    return base + alpha * (trained - base)


@pytest.mark.parametrize("alphas", [RISING, LATE, EARLY], ids=["rising", "late", "early"])
@pytest.mark.parametrize("name", FOLDABLE)
def test_merged_weights_interpolated_block_by_block_answer_the_same(
    name: str, alphas: tuple[float, ...]
) -> None:
    vit, _ = family("dinov2", dtype=torch.float64)
    adapter = adapter_of(name, vit)
    params = dict(vit.params)
    for key, trained in fold(vit.params, [(edit, 1.0) for edit in adapter.edits.edits]).items():
        frozen = vit.params.get(key, torch.zeros_like(trained))
        params[key] = frozen + alphas[block_named_in(key)] * (trained - frozen)
    with torch.no_grad():
        features = vit.forward(images_of(vit), Sliced(vit, [], params))
    (found,) = logits(vit, [by_block(adapter, alphas)])
    assert relative(found, head_at(adapter, alphas[-1], features)) <= 1e-10


@pytest.mark.parametrize("name", [name for name in BY_BLOCK if name not in FOLDABLE])
def test_prompts_and_branches_count_as_much_as_their_block(name: str) -> None:
    vit, _ = family("dinov2", dtype=torch.float64)
    adapter = adapter_of(name, vit)
    for alphas in (RISING, LATE):
        edits = [
            scaled(edit, alphas[int(block_of(edit))])
            for edit in adapter.edits.edits
            if alphas[int(block_of(edit))]
        ]
        with torch.no_grad():
            features = vit.forward(images_of(vit), Functional(vit, edits))
        (found,) = logits(vit, [by_block(adapter, alphas)])
        assert relative(found, head_at(adapter, alphas[-1], features)) <= 1e-10


@pytest.mark.parametrize("aliased", [True, False])
def test_rows_of_any_alphas_share_a_batch_and_each_is_what_it_is_alone(aliased: bool) -> None:
    vit, _ = family("plain", dtype=torch.float64)
    models = []
    for name, seed in itertools.product(BY_BLOCK, (0, 1)):
        adapter = adapter_of(name, vit, seed)
        models += [by_block(adapter, RISING), by_block(adapter, LATE), Model([Term(adapter=adapter)])]
    models += [Model([Term(adapter=adapter_of(name, vit), alpha=0.4)]) for name in WHOLE]
    lora, ssf = adapter_of("lora", vit), adapter_of("ssf", vit)
    models.append(Model([Term(adapter=lora, alpha=EARLY), Term(adapter=ssf, alpha=LATE)]))
    slots = Slots(aliased=aliased)
    together = logits(vit, models, slots=slots)
    for model, found in zip(models, together, strict=True):
        (alone,) = logits(vit, [model])
        assert relative(found, alone) <= 1e-9


def test_many_alphas_by_block_of_one_adapter_take_its_memory_once() -> None:
    vit, _ = family("plain")
    adapter, slots = adapter_of("lora", vit), Slots()
    models = [by_block(adapter, (0.1 * n, 0.5, 1.0)) for n in range(9)]
    logits(vit, models, slots=slots)
    assert slots.nbytes == adapter.nbytes
    assert slots.buffer_bytes == 0
    assert len({model.form for model in models[1:]}) == 1


def test_alphas_that_are_equal_in_all_blocks_are_one_alpha() -> None:
    vit, _ = family("plain")
    adapter = adapter_of("lora", vit)
    whole = Model([Term(adapter=adapter, alpha=0.5)])
    for same in (
        by_block(adapter, (0.5,) * DEPTH),
        by_block(adapter, (0.5, 0.0, 0.0), (0.0, 0.5, 0.5)),
        by_block(adapter, (0.25, 0.5, 0.0), (0.25, 0.0, 0.5)),
    ):
        assert (same.key, same.form, same.by_block) == (whole.key, whole.form, False)
        (found,), (expected,) = logits(vit, [same]), logits(vit, [whole])
        assert torch.equal(found, expected)
    assert by_block(adapter, (0.0,) * DEPTH).edited == ()


def test_parts_of_one_adapter_add_up() -> None:
    vit, _ = family("plain", dtype=torch.float64)
    adapter = adapter_of("ssf", vit)
    parts = by_block(adapter, (0.3, 0.3, 0.0), (0.0, 0.25, 0.5))
    assert parts.key == by_block(adapter, (0.3, 0.55, 0.5)).key


def test_a_range_that_begins_late_shares_the_blocks_before_it() -> None:
    vit, _ = family("plain")
    assert by_block(adapter_of("lora", vit), (0.0, 0.0, 1.0)).first_block == 2
    assert by_block(adapter_of("lora", vit), RISING).first_block == 0


@pytest.mark.parametrize("name", WHOLE)
def test_prompts_that_pass_through_all_blocks_have_one_alpha(name: str) -> None:
    vit, _ = family("plain")
    adapter = adapter_of(name, vit)
    with pytest.raises(InvalidInput, match=f"{adapter.method.title} pass through all blocks"):
        by_block(adapter, RISING)
    by_block(adapter, (0.5,) * DEPTH)


def test_prompts_have_no_negative_alpha_in_any_block() -> None:
    vit, _ = family("plain")
    with pytest.raises(InvalidInput, match=r"alpha -0.5 is negative"):
        by_block(adapter_of("vpt_deep", vit), (1.0, -0.5, 1.0))


@pytest.mark.parametrize("name", NAMES)
def test_a_method_says_whether_its_alpha_may_differ_by_block(name: str) -> None:
    vit, _ = family("plain")
    edits = adapter_of(name, vit).edits
    assert methods.get(name).by_block != bool(edits.tokens or edits.queries)
