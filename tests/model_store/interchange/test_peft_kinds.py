"""Every type of PEFT that is read, by the real library on timm's ViT: one batch gives all of its logits."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model_store.interchange import peft_folder, peft_names, peft_types
from model_store.interchange.peft_change import Norm, Scale
from model_store.interchange.peft_folder import Tuned
from model_store.resolution.versions import resolve
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Model, Row
from petl_vit.edits import Foldable, fold
from tests.model_store.interchange.peft_kinds import KINDS, Made, imported, name_of, small
from tests.model_store.real import Real
from tests.petl_vit.backbones import relative

pytestmark = pytest.mark.slow
pytest.importorskip("peft", reason="needs Hugging Face PEFT (the dev extra)")

FLOAT32 = (
    *("AdaLoRA", "C3A", "FourierFT", "OLoRA", "PiSSA", "PSOFT", "TinyLoRA"),
    *("OFT, constrained", "VB-LoRA, top k saved"),
)
"""What PEFT itself computes or saves in float32, whatever the model is in."""


class Zoo:
    """The adapters of all kinds over one backbone."""

    def __init__(self, place: Path) -> None:
        self.real: Real = small(Store.open(str(place / "store")))
        self.made: dict[str, Made] = {}
        self.notes: dict[str, list[str]] = {}
        for kind in KINDS:
            self.made[kind], self.notes[kind] = imported(kind, self.real, place / name_of(kind))

    def model(self, kind: str) -> Model:
        resolved = resolve(
            parse_route(name_of(kind)),
            task="zoo",
            store=self.real.store,
            backbone_digest=self.real.backbone.digest,
            extrapolate=True,
        )
        (model,) = self.real.loader.models(resolved)
        return model

    def adapter(self, kind: str) -> Adapter:
        return self.model(kind).terms[0].adapter

    def tuned(self, kind: str) -> Tuned:
        folder = peft_folder.read(self.made[kind].folder)
        named = peft_names.sorted_out(folder.tensors)
        vit = self.real.loader.vit(48)
        return Tuned(
            folder=folder,
            arch=vit.arch,
            adapted=named.adapted,
            others=named.others,
            load=lambda: {name: t.double() for name, t in vit.params.items()},
        )


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("peft"))


def test_one_batch_gives_pefts_logits_of_all_kinds(zoo: Zoo) -> None:
    models = [zoo.model(kind) for kind in KINDS]
    rows = [Row(image=image, model=model) for image in range(3) for model in models]

    found = torch.stack(Batch(zoo.real.loader.vit(48)).logits(zoo.real.images, rows))

    for place, kind in enumerate(KINDS):
        assert relative(found[place :: len(KINDS)], zoo.made[kind].logits) <= 1e-5, kind


@pytest.mark.parametrize("kind", KINDS)
def test_alpha_interpolates_the_weights(zoo: Zoo, kind: str) -> None:
    frozen = {name: t.double() for name, t in zoo.real.loader.vit(48).params.items()}
    edits = [edit for edit in zoo.adapter(kind).edits.edits if isinstance(edit, Foldable)]

    half = fold(frozen, [(edit, 0.5) for edit in edits])

    for name, parameter in half.items():
        expected = frozen[name] + 0.5 * (_of(zoo.made[kind], name) - frozen[name])
        assert relative(parameter, expected) <= 1e-6, name
    assert any(parameter is not frozen[name] for name, parameter in half.items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_change_of_every_module_is_pefts_in_float64(zoo: Zoo, kind: str) -> None:
    tuned, bound = zoo.tuned(kind), 1e-5 if kind.startswith(FLOAT32) else 1e-11
    for module, changes in peft_types.TYPES[tuned.folder.peft_type].changed(tuned):
        merged = _of(zoo.made[kind], f"{module.site.module}.weight")
        wanted = merged.flatten(1) - module.weight if merged.dim() > 1 else merged - module.weight
        found = torch.zeros_like(module.weight)
        for change in changes:
            if isinstance(change, Norm):
                found += change.weight
            elif not isinstance(change, Scale) or module.weight.dim() > 1:
                found += change.of_weight(module.weight)
        assert float((found - wanted).abs().max()) <= bound * float(module.weight.abs().max()), module.path


def _of(made: Made, name: str) -> Tensor:
    return made.weights[name].double()


def test_what_is_said_of_the_edits(zoo: Zoo) -> None:
    assert zoo.notes["BOFT"][0] == "its rows are multiplied by 8 frozen weights once more"
    assert not any("once more" in note for note in zoo.notes["IA3"])
    assert "8 linears kept whole, 0.2 MB" in zoo.notes["HiRA"][0]
    assert zoo.adapter("HiRA").edits.dense
    assert not zoo.adapter("OFT").edits.dense
