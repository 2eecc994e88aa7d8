"""A classifier of transformers, registered whole over the backbone that its folder is, answers as it does."""

from pathlib import Path

import pytest
import torch
import transformers

from model_store.format.records import TaskSpec
from model_store.interchange import timm_checkpoint
from model_store.resolution.loading import Loader
from model_store.resolution.versions import resolve
from model_store.routes.text import parse_route
from model_store.sources import backbones
from model_store.store import Store
from petl_vit.architecture import describe
from petl_vit.batch import Batch, Row
from petl_vit.errors import InvalidInput
from petl_vit.heads import LinearHead
from petl_vit.image_input import Preprocess
from tests.model_store.sources.families.models import PLAIN, SIDE, SIZES, images, randomised
from tests.petl_vit.backbones import relative

CLASSES = ("ant", "bee", "cat")
LABELS = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
FIELDS = {"ViT": PLAIN, "Dinov2": SIZES}


def over_its_backbone(kind: str, folder: Path) -> tuple[Store, Loader, torch.Tensor]:
    """A store with the folder's backbone and a task on it, and the folder's logits [2, C]."""
    config = getattr(transformers, f"{kind}Config")(**FIELDS[kind], **LABELS)
    net = randomised(getattr(transformers, f"{kind}ForImageClassification")(config))
    net.save_pretrained(folder / "model")
    store = Store.open(str(folder / "store"))
    found = backbones.read(str(folder / "model"), backbones.Request())
    backbone = store.backbones.put(found.name, found.config, found.tensors, found.source)
    preprocess = Preprocess(image_size=SIDE, mean=found.config.mean, std=found.config.std)
    spec = TaskSpec.of(name="zoo", classes=CLASSES, preprocess=preprocess, backbone_digest=backbone.digest)
    head = LinearHead.init(3, describe(found.config).features, torch.Generator().manual_seed(1))
    store.tasks.put(spec, head.tensors())
    with torch.no_grad():
        return store, Loader(store, backbone), net(images()).logits


@pytest.mark.parametrize("kind", FIELDS)
def test_its_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    store, loader, expected = over_its_backbone(kind, tmp_path)
    whole = timm_checkpoint.read(tmp_path / "model")
    notes = whole.register(store, store.tasks.get("zoo"), name="theirs", classes=None).notes
    assert "epsilon" not in " ".join(notes)
    digest = loader.record.digest
    resolved = resolve(parse_route("theirs"), task="zoo", store=store, backbone_digest=digest)
    (model,) = loader.models(resolved)
    with torch.no_grad():
        rows = [Row(image=i, model=model) for i in range(2)]
        found = torch.stack(Batch(loader.vit(SIDE)).logits(images(), rows))
    assert relative(found, expected) <= 1e-5


def test_a_classifier_that_reads_what_is_not_pooled_has_no_head_to_register(tmp_path: Path) -> None:
    config = transformers.CLIPConfig(vision_config=PLAIN, **LABELS)
    randomised(transformers.CLIPForImageClassification(config)).save_pretrained(tmp_path / "clip")
    store, _, _ = over_its_backbone("ViT", tmp_path)
    whole = timm_checkpoint.read(tmp_path / "clip")
    with pytest.raises(InvalidInput, match=r"no head\.weight"):
        whole.register(store, store.tasks.get("zoo"), name="theirs", classes=None)
