"""The forward in bf16 answers as the one in fp32 does, and a row as it would alone.

Each test runs with plain bf16 weights and, where the CPU multiplies by them, with packed ones.
"""

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from petl_vit import products
from petl_vit.backbone import BackboneConfig
from petl_vit.batch import Batch, Features, Model, Row, Term
from petl_vit.edits import fold
from petl_vit.executors.sliced import Sliced
from petl_vit.precision import Precision
from petl_vit.preprocess import Preprocess, normalise
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import WHOLE, adapter_of, images_of, names_on
from tests.petl_vit.backbones import family, relative
from training.data.dataset import subset
from training.data.pixels import load_pixels
from training.data.sources import load_dataset

DATA = Path(__file__).parents[3] / "shared" / "data"
PACS, DEIT = DATA / "pacs112.zip", DATA / "deit_tiny_patch16_224.fp16.safetensors"

ALPHAS = (1.0, 0.3)
LARGEST = 2e-2
"""Change of any logit or feature, relative to the largest: docs/performance.md."""
MEAN = {
    "plain": 2.2e-3,
    "mean-pooled": 1.4e-3,
    "dinov2": 8e-4,
    "clip": 1.2e-3,
    "siglip": 1.8e-3,
    "dinov3": 1e-3,
    "swiglu": 6e-4,
}
"""Mean change over all methods, between those measured with a float32 and with a bf16 stream (DINOv3 and
SwiGLU: a third more than with a float32 one)."""
COMPANY = LARGEST
"""What the rows beside one may change of it: another last digit of float32 may move a rounding to bf16."""


@pytest.fixture(autouse=True, params=["plain", "packed"])
def weights(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "packed" and not products.packs():
        pytest.skip("this CPU and PyTorch do not multiply by packed bf16 weights")
    monkeypatch.setattr(products, "packs", lambda: request.param == "packed")
    return str(request.param)


def model(name: str, alpha: float, on: FrozenViT, start: FrozenViT, seed: int = 0) -> Model:
    return Model([Term(adapter=adapter_of(name, on, seed, start=start), alpha=alpha)])


def answers(on: FrozenViT, images: Tensor, of: Model) -> Tensor:
    """[n, C], or [n, D] of `Features`."""
    return torch.stack(Batch(on).logits(images, [Row(image=i, model=of) for i in range(len(images))]))


def decided(logits: Tensor, bound: float) -> Tensor:
    """Which rows [n, C] keep their best class when each logit changes by at most `bound` of the largest."""
    best = logits.topk(2, dim=1).values
    return best[:, 0] - best[:, 1] > 2 * bound * logits.abs().max()


@pytest.mark.parametrize("kind", WHOLE)
def test_every_method_answers_as_in_fp32(kind: str) -> None:
    exact, _ = family(kind)
    fast, images = exact.in_precision(Precision.BF16), images_of(exact, 8)
    means, clear = [], 0
    for name, alpha in itertools.product(names_on(kind), ALPHAS):
        ours, theirs = model(name, alpha, fast, exact), model(name, alpha, exact, exact)
        found, expected = answers(fast, images, ours), answers(exact, images, theirs)
        assert found.dtype == torch.float32
        assert relative(found, expected) <= LARGEST, (name, alpha)
        means.append(float((found - expected).abs().mean() / expected.abs().max()))
        sure = decided(expected, LARGEST)
        assert torch.equal(found.argmax(1)[sure], expected.argmax(1)[sure]), (name, alpha)
        clear += int(sure.sum())
        pooled = answers(fast, images, Features(ours.terms)), answers(exact, images, Features(theirs.terms))
        assert relative(*pooled) <= LARGEST, (name, alpha)
    assert sum(means) / len(means) <= MEAN[kind]
    assert clear > len(means) * len(images) / 2  # the bound does not excuse everything


def test_between_products_everything_is_float32() -> None:
    exact, _ = family("plain")
    fast = exact.in_precision(Precision.BF16)
    seen = set[str]()

    class Watched(Sliced):
        def norm(self, site: str, x: Tensor) -> Tensor:
            y = super().norm(site, x)
            assert x.dtype == y.dtype == torch.float32, site
            seen.add("norm")
            return y

        def linear(self, site: str, x: Tensor) -> Tensor:
            assert self.params[f"{site}.weight"].dtype == torch.bfloat16, site
            seen.add("linear")
            return super().linear(site, x)

        def add(self, sublayer: str, stream: Tensor, normed: Tensor, out: Tensor) -> Tensor:
            assert stream.dtype == normed.dtype == out.dtype == torch.float32, sublayer
            seen.add("add")
            return super().add(sublayer, stream, normed, out)

    with torch.inference_mode():
        assert fast.forward(images_of(exact), Watched(fast, [])).dtype == torch.float32
    assert seen == {"norm", "linear", "add"}


@pytest.mark.parametrize("kind", WHOLE)
def test_mixed_rows_equal_each_row_alone(kind: str) -> None:
    exact, _ = family(kind)
    fast, images = exact.in_precision(Precision.BF16), images_of(exact)
    models = [model(name, alpha, fast, exact) for name in names_on(kind) for alpha in ALPHAS]
    models.append(Model([Term(adapter=m.terms[0].adapter, alpha=0.2) for m in models[:4]]))
    order = torch.randperm(3 * len(models), generator=torch.Generator().manual_seed(4)).tolist()
    rows = [Row(image=i % 3, model=models[i // 3]) for i in order]
    together = Batch(fast).logits(images, rows)
    alone = Batch(fast)
    expected = [
        torch.stack([alone.logits(image[None], [Row(image=0, model=one)])[0] for image in images])
        for one in models
    ]
    found = torch.stack(
        [logits for _, logits in sorted(zip(order, together, strict=True), key=lambda p: p[0])]
    )
    for number, of_model in enumerate(found.unflatten(0, (len(models), 3))):
        assert relative(of_model, expected[number]) <= COMPANY, models[number].key
        away = [float((of_model - other).abs().mean()) for other in expected]
        assert away.index(min(away)) == number, "it answers as another model does"


@pytest.mark.parametrize("name", ["full", "selective"])
def test_interpolated_parameters_are_folded_in_float32(name: str) -> None:
    exact, _ = family("plain")
    fast, images = exact.in_precision(Precision.BF16), images_of(exact)
    half = model(name, 0.5, fast, exact)
    found = answers(fast, images, half)
    assert relative(found, answers(exact, images, model(name, 0.5, exact, exact))) <= LARGEST
    terms = [(edit, 0.5) for edit in half.terms[0].adapter.edits.edits]
    with torch.inference_mode():
        features = fast.forward(images, Sliced(fast, [], fold(fast.params, terms)))
    assert relative(found, half.logits(features)) <= COMPANY
    mixed = [Row(image=i, model=m) for i in range(3) for m in (half, model("lora", 1.0, fast, exact))]
    assert relative(torch.stack(Batch(fast).logits(images, mixed)[::2]), found) <= COMPANY


# Real images


class Photos:
    """A backbone that has learnt to see, and photographs and drawings from PACS."""

    config = BackboneConfig(
        architecture="vit_tiny_patch16_224",
        image_size=224,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    methods = ("linear", "lora", "ssf", "bitfit", "convpass", "vpt_deep", "adaptformer")
    count = 14

    def __init__(self) -> None:
        tensors = {n: t.float() for n, t in load_file(DEIT).items() if not n.startswith("head.")}
        self.vit = FrozenViT(self.config, tensors, image_size=112)
        spec = Preprocess(image_size=112, mean=self.config.mean, std=self.config.std)
        chosen = [subset(load_dataset(f"{PACS}::pacs/{d}"), self.count // 2, 0) for d in ("photo", "sketch")]
        self.images = normalise(torch.cat([load_pixels(one, spec) for one in chosen]), spec)


@pytest.fixture(scope="module")
def photos() -> Photos:
    if not (PACS.exists() and DEIT.exists()):
        pytest.skip(f"needs {PACS.name} and {DEIT.name} in shared/data")
    return Photos()


def test_real_images_are_answered_as_in_fp32_and_as_alone(photos: Photos) -> None:
    fast, images = photos.vit.in_precision(Precision.BF16), photos.images
    alphas = itertools.cycle(ALPHAS)
    models = [model(name, next(alphas), fast, photos.vit) for name in photos.methods]
    answered = [answers(fast, images, one) for one in models]
    for one, found in zip(models, answered, strict=True):
        (term,) = one.terms
        name = term.adapter.digest.rpartition("-")[0]
        expected = answers(photos.vit, images, model(name, term.alpha, photos.vit, photos.vit))
        assert relative(found, expected) <= LARGEST, (name, term.alpha)
        sure = decided(expected, LARGEST)
        assert torch.equal(found.argmax(1)[sure], expected.argmax(1)[sure]), (name, term.alpha)
    rows = [Row(image=i % len(images), model=models[i % len(models)]) for i in range(8 * len(models))]
    for i, found in enumerate(Batch(fast).logits(images, rows)):
        assert relative(found, answered[i % len(models)][rows[i].image]) <= COMPANY, rows[i].model.key
