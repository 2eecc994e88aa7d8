"""What cannot work is refused with the field and the remedy, from the method's settings to a batch's rows."""

from pathlib import Path

import pytest
import torch

from model_store.format.records import Draft, TaskSpec
from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedTerm, resolve
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Model, Row, Term
from petl_vit.errors import CorollaError, Corrupt, InvalidInput, Unsupported
from petl_vit.heads import LinearHead
from tests.model_store.real import CLASSES, Real
from tests.petl_vit.adapters import method_of, random_tensors


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    made = Real(Store.open(str(tmp_path_factory.mktemp("store"))))
    made.publish("lora")
    return made


@pytest.mark.parametrize(
    ("method", "config", "said"),
    [
        ("lora", {"rank": 0}, "lora.rank: input should be greater than or equal to 1 (got 0)"),
        ("lora", {"rank": 513}, "lora.rank: input should be less than or equal to 512 (got 513)"),
        ("dora", {"rank": 0}, "dora.rank: input should be greater than or equal to 1 (got 0)"),
        ("dora", {"targets": "qkv,key"}, "dora.targets.1: input should be 'qkv', 'proj', 'fc1' or 'fc2'"),
        ("vera", {"projection_seed": -1}, "vera.projection_seed: input should be greater than or equal to 0"),
        ("ia3", {"targets": "keys"}, "ia3.targets.0: input should be 'q', 'k', 'v', 'proj', 'fc1'"),
        ("adaptformer", {"rank": 0}, "adaptformer.rank: input should be greater than or equal to 1"),
        ("houlsby", {"rank": 1025}, "houlsby.rank: input should be less than or equal to 1024"),
        ("pfeiffer", {"rank": -1}, "pfeiffer.rank: input should be greater than or equal to 1"),
        ("convpass", {"rank": 0}, "convpass.rank: input should be greater than or equal to 1"),
        ("repadapter", {"rank": 3}, "repadapter.rank: input should be a multiple of 2"),
        ("fact_tt", {"rank": 0}, "fact_tt.rank: input should be greater than or equal to 1"),
        ("fact_tk", {"rank": 0}, "fact_tk.rank: input should be greater than or equal to 1"),
        ("vpt_deep", {"prompts": 0}, "vpt_deep.prompts: input should be greater than or equal to 1"),
        ("vpt_shallow", {"prompts": 2000}, "vpt_shallow.prompts: input should be less than or equal to 1024"),
        ("selective", {"blocks": (-1,)}, "selective.blocks.0: input should be greater than or equal to 0"),
    ],
)
def test_a_setting_out_of_range_names_the_field_its_value_and_the_settings(
    method: str, config: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        methods.get(method).configure(config)
    assert str(refused.value).startswith(said)
    assert f"settings of {method}: " in str(refused.value)


def test_a_block_that_the_backbone_lacks_is_refused_with_the_indices_it_has(real: Real) -> None:
    with pytest.raises(InvalidInput) as refused:
        methods.get("selective").configure({"blocks": (0, 2)}).shapes(real.loader.vit(48).arch)
    assert str(refused.value).startswith("selective.blocks: there is no block 2")
    assert str(refused.value).endswith("use indices from 0 to 1")


def test_an_adapter_of_another_backbone_is_refused_by_both_digests(real: Real) -> None:
    other = "9" * 64
    with pytest.raises(Unsupported) as refused:
        resolve(parse_route("lora"), task="zoo", store=real.store, backbone_digest=other)
    assert str(refused.value) == (
        f"route: adapter zoo/lora:1 belongs to backbone {real.backbone.digest[:12]}, this is {other[:12]}; "
        "serve that backbone, or train the adapter again on this one"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"blocks.1.attn.qkv.lora_b": None}, "lacks blocks.1.attn.qkv.lora_b"),
        ({"blocks.2.attn.qkv.lora_a": torch.zeros(192, 3)}, "has unexpected blocks.2.attn.qkv.lora_a"),
        ({"blocks.0.attn.qkv.lora_a": torch.zeros(192, 4)}, "has shape (192, 4), expected (192, 3)"),
        ({"head.weight": None}, "head lacks head.weight"),
        ({"head.weight": torch.zeros(6, 192)}, "has shape (6, 192), expected (5, 192)"),
    ],
)
def test_tensors_missing_extra_or_of_another_shape_are_refused_when_they_are_loaded(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], said: str
) -> None:
    real = Real(Store.open(str(tmp_path)))
    sent = real.publish("lora")
    tensors = {n: t for n, t in (real.store.adapters.load(sent) | changes).items() if t is not None}
    draft = Draft.of(**{name: getattr(sent, name) for name in Draft.model_fields})
    manifest = real.store.adapters.publish(draft, tensors)
    with pytest.raises(Corrupt, match=r"adapter zoo/lora:2 cannot be loaded") as refused:
        real.loader.adapter(ResolvedTerm(alpha=1.0, manifest=manifest, task=real.task))
    assert said in str(refused.value)
    assert "it was made for another" in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["blocks.0.attn.qkv.lora_a", "head.bias"])
def test_values_that_are_not_finite_are_not_published(real: Real, name: str, value: float) -> None:
    sent = real.store.adapters.manifest("zoo", "lora", 1)
    tensors = real.store.adapters.load(sent)
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[3] = value
    draft = Draft.of(**{field: getattr(sent, field) for field in Draft.model_fields})
    with pytest.raises(CorollaError) as refused:
        real.store.adapters.publish(draft, tensors)
    assert str(refused.value) == f"tensors: tensor {name!r} holds NaN or an infinity; lower the learning rate"


def test_members_whose_classes_stand_in_another_order_are_matched_by_name(real: Real) -> None:
    permuted = ("eel", "ant", "dog", "cat", "bee")
    spec = TaskSpec.of(**dict(real.task.spec) | {"name": "permuted", "classes": permuted})
    order = [CLASSES.index(name) for name in permuted]
    head = {n: t[order] for n, t in real.head(1).tensors().items()}
    task = real.store.tasks.put(spec, head)
    sent = real.store.adapters.manifest("zoo", "lora", 1)
    tensors = real.store.adapters.load(sent)
    tensors |= {n: tensors[n][order] for n in head}
    draft = Draft.of(**{field: getattr(sent, field) for field in Draft.model_fields})
    draft = draft.model_copy(update={"task": "permuted", "task_digest": task.digest})
    real.store.adapters.publish(draft, tensors)
    route = parse_route("lora, permuted/lora")
    resolved = resolve(route, task="zoo", store=real.store, backbone_digest=real.backbone.digest)
    first, second = resolved.members
    assert resolved.class_order(first) is None
    places = resolved.class_order(second)
    assert places is not None
    assert [permuted[place] for place in places] == list(CLASSES)
    own, other = real.logits("lora"), real.logits("permuted/lora")
    assert torch.allclose(own, other[:, list(places)], atol=1e-6)


def test_members_with_other_classes_are_refused_with_the_classes_that_differ(real: Real) -> None:
    spec = TaskSpec.of(
        **dict(real.task.spec) | {"name": "birds", "classes": ("ant", "bee", "cat", "dog", "fox")}
    )
    real.store.tasks.put(spec, real.head(2).tensors())
    with pytest.raises(
        InvalidInput, match=r"have different classes \(eel, fox\); an ensemble's members must"
    ):
        resolve(
            parse_route("lora, birds/base"),
            task="zoo",
            store=real.store,
            backbone_digest=real.backbone.digest,
        )


def test_heads_of_different_width_share_a_batch_and_each_is_what_it_is_alone(real: Real) -> None:
    vit = Loader(real.store, real.backbone).vit(48)
    rows = []
    for width, name in ((2, "lora"), (9, "ssf"), (5, "vpt_deep"), (1000, "linear")):
        head = LinearHead.init(width, vit.arch.width, torch.Generator().manual_seed(width))
        adapter = Adapter.load(
            digest=name,
            method=method_of(name),
            tensors=random_tensors(method_of(name), vit) | head.tensors(),
            vit=vit,
            base_head=head,
            task_digest=name,
        )
        rows.append(Row(image=0, model=Model([Term(adapter=adapter, alpha=0.5)])))
    together = Batch(vit).logits(real.images, rows)
    assert [len(logits) for logits in together] == [2, 9, 5, 1000]
    for row, found in zip(rows, together, strict=True):
        assert torch.allclose(Batch(vit).logits(real.images, [row])[0], found, atol=1e-5)
