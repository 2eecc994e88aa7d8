"""What the study's published runs did and its configs do not say: starts, and masks of dropout."""

import pytest
import torch
from torch import Tensor

from petl_vit import methods
from petl_vit.executors.functional import Functional
from petl_vit.methods.method import Method
from petl_vit.noise import Noise
from petl_vit.prompts import Prefix, Queries, Tokens
from tests.petl_vit.adapters import NAMES, images_of, method_of
from tests.petl_vit.backbones import family

# The modules of the published code that timm's init_weights set to N(0, 0.02), by the ends of our names.
OVERWRITTEN = {
    "lora": {"lora_a", "lora_b"},
    "houlsby": {"down.weight", "up.weight"},
    "pfeiffer": {"down.weight", "up.weight"},
    "adaptformer": {"down.weight", "up.weight"},
    "convpass": {"down.weight", "up.weight"},
    "fact_tt": {"u", "v", "s"},
    "fact_tk": {"u", "v"},
    "vqt": {"mix"},
}


def end_of(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1] in ("weight", "bias") else parts[-1]


@pytest.mark.parametrize("name", NAMES)
def test_the_published_start_is_normal_in_every_linear_layer_and_ours_elsewhere(name: str) -> None:
    vit, _ = family("plain")
    method = method_of(name)
    ours, published = (
        start(vit, torch.Generator().manual_seed(3)) for start in (method.init, method.init_published)
    )
    assert ours.keys() == published.keys()
    drawn = {n for n in published if end_of(n) in OVERWRITTEN.get(name, set())}
    assert bool(drawn) == (name in OVERWRITTEN)
    said = method.notes(vit.arch, published=True)
    assert bool(said) != bool(drawn)
    assert method.notes(vit.arch) == []
    for tensor in published:
        if tensor in drawn:
            assert not torch.equal(published[tensor], ours[tensor])
        elif end_of(tensor) in ("down.bias", "up.bias"):
            assert not published[tensor].any()
        else:
            assert torch.equal(published[tensor], ours[tensor]), tensor
    if drawn:
        values = torch.cat([published[n].flatten() for n in drawn])
        assert float(values.mean()) == pytest.approx(0, abs=0.1 * 0.02 + 0.06 / len(values) ** 0.5)
        assert float(values.std()) == pytest.approx(0.02, rel=0.4 if name == "vqt" else 0.1)


def test_the_published_start_depends_on_the_generator_alone() -> None:
    vit, _ = family("plain")
    first, again = (method_of("lora").init_published(vit, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def prompted(name: str, **settings: object) -> tuple[Method, dict[str, Tensor]]:
    vit, _ = family("plain")
    method = methods.get(name).configure({"prompts": 8, "dropout": 0.5, **settings})
    return method, method.init(vit, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mask", ["row", "batch"])
@pytest.mark.parametrize("name", ["vpt_deep", "vpt_shallow"])
def test_prompts_have_a_mask_for_each_row_or_for_the_batch(name: str, mask: str) -> None:
    vit, _ = family("plain")
    method, tensors = prompted(name, mask=mask)
    noise = Noise(torch.device("cpu"), 0)
    edit = method.edits(vit, tensors)[0]
    if isinstance(edit, Prefix):
        keys, _ = edit.keys_values(4, noise)
        rows = list(keys.expand(4, -1, -1, -1))
    else:
        assert isinstance(edit, Tokens)
        rows = list(edit.rows(4, noise))
        assert 0.1 < float((rows[0] == 0).float().mean()) < 0.9
    assert all(torch.equal(rows[0], row) for row in rows[1:]) == (mask == "batch")


@pytest.mark.parametrize(
    ("name", "settings"), [("vpt_deep", {"mask": "batch"}), ("vpt_shallow", {"mask": "batch"}), ("vqt", {})]
)
def test_dropout_acts_in_training_alone_and_is_the_same_for_the_whole_batch(
    name: str, settings: dict[str, object]
) -> None:
    vit, _ = family("plain")
    method, tensors = prompted(name, **settings)
    image = images_of(vit)[:1].expand(3, -1, -1, -1)
    edits = method.edits(vit, tensors)
    still = [vit.forward(image, Functional(vit, edits)) for _ in range(2)]
    noise = Noise(torch.device("cpu"), 0)
    noisy = [vit.forward(image, Functional(vit, edits, noise=noise)) for _ in range(2)]
    assert torch.equal(*still)
    assert not torch.allclose(*noisy)
    assert not torch.allclose(noisy[0], still[0])
    for features in noisy:
        torch.testing.assert_close(features[1:], features[:1].expand(2, -1))


def test_vqt_has_no_dropout_unless_it_is_asked_for() -> None:
    vit, _ = family("plain")
    (edit,) = methods.get("vqt").configure({}).edits(vit, prompted("vqt", prompts=10)[1])
    assert isinstance(edit, Queries)
    assert edit.dropout == 0.0
