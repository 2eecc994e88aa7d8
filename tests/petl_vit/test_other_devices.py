"""Every method on a device that is not the CPU: a fake one, whose tensors have shapes, dtypes and no values.

PyTorch then refuses an operation whose tensors are on several devices, as it does on a GPU.
"""

import itertools
import random
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.arena import Arena, Layout
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.edit_set import NO_FORM
from petl_vit.heads import LinearHead
from petl_vit.precision import Precision
from petl_vit.slots import Slots
from petl_vit.vit import FrozenViT
from tests.gpu import adapter_for
from tests.gpu.test_forward import models_of
from tests.petl_vit.adapters import CLASSES, images_of, names_on, random_tensors
from tests.petl_vit.backbones import family

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor:UserWarning")

DEVICE = torch.device("meta")
FAMILIES = ("plain", "mean-pooled", "dinov2", "clip", "siglip", "dinov3")


def stacked(vit: FrozenViT) -> Slots:
    return Slots(vit.device)


def in_arena(vit: FrozenViT) -> Slots:
    """As for rows that the graphs' back end leaves to PyTorch."""
    return Slots(vit.device, arena=Arena(vit.arch, nbytes=2**26, slots=256, device=vit.device))


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Layout, "column", lambda self, edits: None)  # it reads values; none goes to kernels
    for name in FAMILIES:
        family(name, depth=2)  # made once, and not as a fake
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def wide_adapter(vit: FrozenViT, like: FrozenViT, seed: int) -> Adapter:
    """One whose bottlenecks no kernel takes."""
    method = methods.get("adaptformer").configure({"rank": 128})
    head = LinearHead.init(CLASSES, vit.arch.features, torch.Generator().manual_seed(seed))
    return Adapter.load(
        digest=f"wide-{seed}",
        method=method,
        tensors=random_tensors(method, like, seed) | head.tensors(),
        vit=vit,
        base_head=head,
        task_digest="task",
    )


@pytest.mark.parametrize(
    ("backbone", "slots_on"), [*((name, stacked) for name in FAMILIES), ("plain", in_arena)]
)
def test_rows_of_all_methods_are_computed_where_the_backbone_is(
    backbone: str, slots_on: Callable[[FrozenViT], Slots]
) -> None:
    like = family(backbone, depth=2)[0]
    vit = like.to(device=DEVICE).in_precision(Precision.BF16)
    alone = models_of(vit, like, names_on(backbone))
    linears = [term for model in alone for term in model.terms if not term.adapter.edits.edits]
    wide = [Term(adapter=wide_adapter(vit, like, seed)) for seed in (0, 1)]
    models = [*alone, *(Model([term]) for term in wide)]
    models += [Model([no_edit, term]) for no_edit, term in itertools.product(linears, wide)]
    adapters = [term.adapter for model in models for term in model.terms]
    assert all(one.edits.flat.is_cpu for one in adapters if one.edits.form != NO_FORM)
    images = images_of(like).to(device=DEVICE)
    rows = [Row(image=i % len(images), model=model) for i, model in enumerate(models)]
    random.Random(4).shuffle(rows)

    logits = Batch(vit, slots=slots_on(vit)).logits(images, rows)

    assert [tuple(of_row.shape) for of_row in logits] == [(CLASSES,)] * len(rows)
    assert all(of_row.is_cpu for of_row in logits)


@pytest.mark.parametrize("name", ["vpt_deep", "vpt_shallow"])
def test_no_bias_of_attention_has_another_dtype_than_the_factors(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    like = family("plain", depth=2)[0]
    vit = like.to(device=DEVICE).in_precision(Precision.BF16)
    adapter = adapter_for(vit, name, like=like)
    attention, biased = F.scaled_dot_product_attention, list[tuple[torch.dtype, ...]]()

    def spied(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        if attn_mask is not None:
            biased.append((q.dtype, k.dtype, v.dtype, attn_mask.dtype))
        return attention(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spied)
    rows = [Row(image=0, model=Model([Term(adapter=adapter, alpha=alpha)])) for alpha in (1.0, 0.3)]

    Batch(vit, slots=stacked(vit)).logits(images_of(like).to(device=DEVICE), rows)

    assert biased == [(torch.float32,) * 4] * vit.arch.depth
