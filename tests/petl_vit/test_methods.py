"""The conformance suite: what every registered method passes because it is registered.

The references are independent modules written from the equations (`tests/petl_vit/reference`).
"""

import pytest
import torch
from torch import Tensor

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.architecture import describe
from petl_vit.backbone import BackboneConfig
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.edit_set import EditSet
from petl_vit.edits import fold
from petl_vit.errors import Corrupt, InvalidInput, NotFound, Unsupported
from petl_vit.executors.functional import Functional
from petl_vit.executors.lanes import Lane
from petl_vit.executors.sliced import Sliced
from petl_vit.heads import LinearHead
from petl_vit.methods.method import Method
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import (
    CLASSES,
    GATED,
    NAMES,
    PAIRS,
    adapter_of,
    images_of,
    method_of,
    random_tensors,
)
from tests.petl_vit.backbones import HALF, family, reference_model, relative, timm_features
from tests.petl_vit.reference import REFERENCES

ALPHAS = [0.0, 0.3, 1.0]
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-4}
SINGLE = ("plain", "siglip", "dinov3")
"""The families that are compared in float32 too: the simplest, and those with most parts."""
# The references move every bias and norm of timm's model; ours leave attention pooling frozen.
UNLIKE_ON_POOLED = {"bitfit", "layernorm", "difffit"}
COMPARED = [(n, kind) for n, kind in PAIRS if not (n in UNLIKE_ON_POOLED and kind in ("siglip", "pe-core"))]


def features(
    vit: FrozenViT, method: Method, tensors: dict[str, Tensor], images: Tensor, alpha: float, executor: str
) -> Tensor:
    """[B, D] by one of the executors; dense edits at alpha are folded, as in a batch."""
    edits = method.edits(vit, tensors)
    rows = torch.full((len(images), 1, 1), alpha, dtype=vit.dtype)
    dense = EditSet(edits).dense
    if dense and alpha != 1:
        params = fold(vit.params, [(edit, alpha) for edit in dense])
        return vit.forward(images, Sliced(vit, [], params))
    if executor == "functional":
        return vit.forward(images, Functional(vit, edits, alpha=None if alpha == 1 else rows))
    params = fold(vit.params, [(edit, 1.0) for edit in dense]) if dense else None
    lane = Lane(
        rows=slice(0, len(images)),
        edits=EditSet([e for e in edits if e not in dense]),
        alpha=None if alpha == 1 else rows,
    )
    return vit.forward(images, Sliced(vit, [lane], params))


@pytest.mark.parametrize(
    ("name", "kind", "dtype"),
    [(*pair, dtype) for dtype in BOUNDS for pair in COMPARED if dtype == torch.float64 or pair[1] in SINGLE],
)
def test_the_forward_equals_the_independent_reference(name: str, kind: str, dtype: torch.dtype) -> None:
    vit, model = family(kind, dtype=dtype)[0], reference_model(kind, dtype=dtype)
    method, images = method_of(name), images_of(vit)
    tensors = random_tensors(method, vit)
    for alpha in ALPHAS:
        reference = REFERENCES[name](model, tensors, method.model_dump(), alpha)
        with torch.no_grad():
            expected = reference.eval()(images)
            for executor in ("functional", "sliced"):
                found = features(vit, method, tensors, images, alpha, executor)
                error = float((found - expected).norm() / expected.norm())
                assert error <= BOUNDS[dtype], f"{executor}, alpha {alpha}: {error:.2e}"


@pytest.mark.parametrize(("name", "kind"), [pair for pair in COMPARED if pair[0] != "linear"])
def test_gradients_equal_the_reference_and_reach_only_the_adapter(name: str, kind: str) -> None:
    vit, model = family(kind, dtype=torch.float64)[0], reference_model(kind, dtype=torch.float64)
    method, images = method_of(name), images_of(vit)
    ours = {n: t.clone().requires_grad_() for n, t in random_tensors(method, vit).items()}
    theirs = {n: t.detach().clone().requires_grad_() for n, t in ours.items()}
    direction = torch.randn(
        3, vit.arch.features, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    (vit.forward(images, Functional(vit, method.edits(vit, ours))) * direction).sum().backward()
    (REFERENCES[name](model, theirs, method.model_dump(), 1.0).eval()(images) * direction).sum().backward()
    assert all(parameter.grad is None for parameter in vit.params.values())
    for tensor_name, tensor in ours.items():
        expected = theirs[tensor_name].grad
        assert tensor.grad is not None, tensor_name
        assert expected is not None, tensor_name
        if not vit.arch.key_bias and tensor_name.endswith("attn.qkv.bias"):
            expected.chunk(3)[1].zero_()  # timm's own attention has no such parameter
        scale = max(float(expected.norm()), 1e-6)
        assert float((tensor.grad - expected).norm()) / scale <= 1e-8, tensor_name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["plain", "siglip"])
def test_a_method_starts_as_the_identity_or_says_that_it_does_not(name: str, kind: str) -> None:
    vit, model = family(kind)
    method, images = method_of(name), images_of(vit)
    start = method.init(vit, torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = features(vit, method, start, images, 1.0, "functional")
        same = relative(found, timm_features(model, images)) <= 1e-5
    assert same == method.starts_as_identity


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["plain", "siglip"])
def test_alpha_0_is_the_frozen_model_with_the_base_head(name: str, kind: str) -> None:
    vit, model = family(kind)
    adapter, images = adapter_of(name, vit), images_of(vit)
    rows = [Row(image=i, model=Model([Term(adapter=adapter, alpha=0.0)])) for i in range(3)]
    found = torch.stack(Batch(vit).logits(images, rows))
    with torch.no_grad():
        expected = adapter.base_head.logits(timm_features(model, images))
    assert relative(found, expected) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_full_fine_tuning_alone_reaches_attention_pooling(name: str) -> None:
    vit, _ = family("siglip")
    pooled = {tensor for tensor in method_of(name).shapes(vit.arch) if tensor.startswith("attn_pool.")}
    everything = {parameter for parameter in vit.params if parameter.startswith("attn_pool.")}
    assert pooled == (everything if name == "full" else set())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["plain", "siglip"])
def test_alpha_1_is_the_adapter_as_trained(name: str, kind: str) -> None:
    vit, _ = family(kind)
    adapter, images = adapter_of(name, vit), images_of(vit)
    rows = [Row(image=i, model=Model([Term(adapter=adapter)])) for i in range(3)]
    found = torch.stack(Batch(vit).logits(images, rows))
    with torch.no_grad():
        trained = vit.forward(images, Functional(vit, adapter.edits.edits))
        assert relative(found, adapter.head.logits(trained)) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_declared_shapes_are_those_of_the_starting_tensors(name: str) -> None:
    vit, _ = family("dinov2")
    method = method_of(name)
    start = method.init(vit, torch.Generator().manual_seed(0))
    assert {n: tuple(t.shape) for n, t in start.items()} == method.shapes(vit.arch)
    assert method.parameters(vit.arch) == sum(t.numel() for t in start.values())
    assert all(t.dtype == torch.float32 and t.device.type == "cpu" for t in start.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_alone_decides_the_start(name: str) -> None:
    vit, _ = family("plain")
    first = method_of(name).init(vit, torch.Generator().manual_seed(3))
    torch.rand(5)  # moves the generator that all code shares
    second = method_of(name).init(vit, torch.Generator().manual_seed(3))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("name", NAMES)
def test_starting_tensors_are_copies_of_the_backbone(name: str) -> None:
    vit, _ = family("plain")
    start = method_of(name).init(vit, torch.Generator().manual_seed(0))
    assert not {t.data_ptr() for t in start.values()} & {p.data_ptr() for p in vit.params.values()}


@pytest.mark.parametrize("name", NAMES)
def test_dtype_and_device_of_the_backbone_are_kept(name: str) -> None:
    vit, _ = family("plain", dtype=torch.float64)
    adapter = adapter_of(name, vit)
    rows = [Row(image=0, model=Model([Term(adapter=adapter, alpha=0.5)]))]
    assert Batch(vit).logits(images_of(vit), rows)[0].dtype == torch.float64


@pytest.mark.parametrize("name", [name for name in NAMES if name != "linear"])
@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_tensors_of_another_method_or_backbone_are_refused(name: str, change: str) -> None:
    vit, _ = family("plain")
    method = method_of(name)
    tensors = random_tensors(method, vit)
    first = next(iter(tensors))
    if change == "missing":
        del tensors[first]
    elif change == "extra":
        tensors["blocks.0.nonsense"] = torch.zeros(2)
    else:
        tensors[first] = torch.zeros(2, 2, 2)
    head = LinearHead.init(CLASSES, vit.arch.width, torch.Generator())
    with pytest.raises(Corrupt):
        Adapter.load(
            digest="0" * 64,
            method=method,
            tensors=tensors | head.tensors(),
            vit=vit,
            base_head=head,
            task_digest="task",
        )


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_setting_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidInput, match="rnak"):
        methods.get(name).configure({"rnak": 8})


@pytest.mark.parametrize("kind", GATED)
@pytest.mark.parametrize("name", ["fact_tt", "fact_tk"])
def test_fact_is_refused_where_a_gated_mlp_does_not_consist_of_its_units(name: str, kind: str) -> None:
    vit, _ = family(kind)
    with pytest.raises(Unsupported, match=rf"{vit.arch.name} has a gated one of {vit.arch.hidden}/96"):
        method_of(name).init(vit, torch.Generator())


def test_vqt_is_refused_where_the_feature_is_wider_than_its_queries() -> None:
    vit, _ = family("class-and-mean")
    with pytest.raises(Unsupported, match=r"192 numbers .* not 96; .*global_pool=token"):
        method_of("vqt").init(vit, torch.Generator())


@pytest.mark.parametrize("name", ["bitfit", "full"])
@pytest.mark.parametrize("kind", ["dinov3", "dinov3-plus"])
def test_what_timms_parameters_lack_is_not_counted_and_not_trained(name: str, kind: str) -> None:
    """Keys of DINOv3 have no bias; where queries and values have one, ours is zeros and stays so."""
    vit, model = family(kind)
    everything = dict(model.named_parameters())
    theirs = [p.numel() for n, p in everything.items() if name == "full" or n.endswith("bias")]
    assert method_of(name).parameters(vit.arch) == sum(theirs)
    tensors = {n: t.requires_grad_() for n, t in method_of(name).init(vit, torch.Generator()).items()}
    vit.forward(images_of(vit), Functional(vit, method_of(name).edits(vit, tensors))).sum().backward()
    for tensor_name, tensor in tensors.items():
        if tensor_name.endswith("attn.qkv.bias"):
            assert tensor.grad is not None
            assert [bool(part.any()) for part in tensor.grad.chunk(3)] == [True, False, True]


def test_an_unknown_method_names_near_ones() -> None:
    with pytest.raises(NotFound, match="lora"):
        methods.get("lra")


@pytest.mark.parametrize(
    ("name", "config", "published"),
    [
        ("linear", {}, 0),
        ("bitfit", {}, 102_912),
        ("ssf", {}, 205_824),
        ("lora", {"rank": 8}, 294_912),
        ("lora", {"rank": 32}, 1_179_648),
        ("dora", {"rank": 8}, 322_560),
        ("vera", {"rank": 256}, 30_720),
        ("ia3", {}, 55_296),
        ("adaptformer", {"rank": 32}, 599_424),
        ("vpt_deep", {"prompts": 50}, 460_800),
        ("full", {}, 85_798_656),
        ("layernorm", {}, 38_400),
        ("difffit", {}, 140_544),
        ("vpt_shallow", {"prompts": 50}, 38_400),
        ("vqt", {"prompts": 10}, 92_281),
        ("houlsby", {"rank": 8}, 313_536),
        ("pfeiffer", {"rank": 32}, 599_424),
        ("repadapter", {"rank": 8}, 239_808),
        ("convpass", {"rank": 8}, 327_552),
        ("fact_tt", {"rank": 8}, 21_504),
        ("fact_tk", {"rank": 16}, 30_976),
        ("selective", {"part": "block", "blocks": (11,)}, 7_087_872),
    ],
)
def test_parameter_counts_on_vit_b_16_are_the_published_ones(name: str, config: dict, published: int) -> None:
    arch = describe(BackboneConfig(architecture="vit_base_patch16_224", image_size=224, mean=HALF, std=HALF))
    assert methods.get(name).configure(config).parameters(arch) == published
