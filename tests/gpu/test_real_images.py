"""bfloat16 on a CUDA device answers real images as float32 does: photographs of PACS, DeiT-Tiny's weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.backbone import BackboneConfig
from petl_vit.batch import Model, Row, Term
from petl_vit.heads import LinearHead
from petl_vit.image_input import Preprocess
from petl_vit.precision import Precision
from petl_vit.preprocess import normalise
from petl_vit.vit import FrozenViT
from tests.gpu import BACKENDS, DEVICE, backend_on
from training.data.pixels import load_pixels
from training.data.sources import load_dataset
from training.run import probe
from training.run.recipe import Recipe
from training.run.trainer import Trainer

DATA = Path(__file__).parents[3] / "shared" / "data"
PACS, DEIT = DATA / "pacs112.zip", DATA / "deit_tiny_patch16_224.fp16.safetensors"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PACS.exists() and DEIT.exists()), reason=f"needs {PACS.name} and {DEIT.name} in shared/data"
    ),
]

CONFIG = BackboneConfig(
    architecture="vit_tiny_patch16_224",
    image_size=224,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
SPEC = Preprocess(image_size=112, mean=CONFIG.mean, std=CONFIG.std)
CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
METHODS: dict[str, dict[str, object]] = {"linear": {}, "lora": {}, "convpass": {}, "vpt_deep": {"prompts": 5}}
EPOCHS = 10


class Photos:
    """The photographs of PACS as the backbone takes them; those of even number are trained on."""

    def __init__(self) -> None:
        dataset = load_dataset(f"{PACS}::pacs/photo")
        self.images = normalise(load_pixels(dataset, SPEC), SPEC)
        self.all_labels = dataset.labels

    @property
    def labels(self) -> Tensor:
        return self.all_labels[::2]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, augment: torch.Generator | None = None) -> Tensor:
        return self.images[2 * indices].to(DEVICE)


@pytest.fixture(scope="module")
def photos() -> Photos:
    return Photos()


@pytest.fixture(scope="module")
def vit() -> FrozenViT:
    tensors = {name: t.float() for name, t in load_file(DEIT).items() if not name.startswith("head.")}
    return FrozenViT(CONFIG, tensors, image_size=SPEC.image_size).to(device=DEVICE)


@pytest.fixture(scope="module")
def base_head(vit: FrozenViT, photos: Photos) -> LinearHead:
    parts = torch.arange(len(photos)).split(64)
    features = probe.features(vit, (photos.batch(part) for part in parts), lambda done: None)
    return probe.fit(features, photos.labels, len(CLASSES))


def answers(
    kind: str, vit: FrozenViT, name: str, tensors: dict[str, Tensor], head: LinearHead, images: Tensor
) -> Tensor:
    """The best class of every image under an adapter."""
    adapter = Adapter.load(
        digest=name,
        method=methods.get(name).configure(METHODS[name]),
        tensors=tensors,
        vit=vit,
        base_head=head,
        task_digest="task",
    )
    model, backend = Model([Term(adapter=adapter)]), backend_on(kind, vit)
    found: list[Tensor] = []
    for part in images.split(128):
        found += backend.logits(list(part), [Row(image=i, model=model) for i in range(len(part))])
    return torch.stack(found).argmax(dim=1)


@pytest.mark.parametrize("name", METHODS)
def test_bf16_gives_the_answers_of_fp32_under_a_trained_adapter(
    name: str, vit: FrozenViT, base_head: LinearHead, photos: Photos
) -> None:
    recipe = Recipe.of(method=name, config=METHODS[name], learning_rate=1e-3, epochs=EPOCHS)
    trained = Trainer(vit, methods.get(name).configure(recipe.config), base_head, recipe).run(photos)
    tensors = trained.tensors | trained.head.tensors()

    expected = answers("torch", vit, name, tensors, base_head, photos.images)
    assert (expected == photos.all_labels).float().mean() > 0.9
    fast = vit.in_precision(Precision.BF16)
    for kind in BACKENDS:
        found = answers(kind, fast, name, tensors, base_head, photos.images)
        assert (found == expected).float().mean() >= 0.995, kind
