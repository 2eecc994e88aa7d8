"""Every method on a CUDA device: in float32 and bfloat16, eager and in graphs, alone and mixed."""

import itertools
import random
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache

import pytest
import torch

from petl_vit.batch import Features, Model, Row, Term
from petl_vit.precision import Precision
from petl_vit.vit import FrozenViT
from serving.engine.backend import Backend
from tests.gpu import BACKENDS, DEVICE, adapter_for, backend_on, exact
from tests.petl_vit.adapters import NAMES, images_of, method_of, names_on, random_tensors
from tests.petl_vit.backbones import FAMILIES, family, relative
from tests.petl_vit.reference import REFERENCES
from tests.petl_vit.test_methods import ALPHAS, PAIRS

pytestmark = pytest.mark.gpu

BOUNDS = {Precision.FP32: 1e-3, Precision.BF16: 2e-2}
ENGINES = [(kind, precision) for kind in BACKENDS for precision in BOUNDS]
ROWS = 24


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    with exact():
        yield


@lru_cache
def resident(backbone: str, kind: str, precision: Precision) -> tuple[FrozenViT, Backend]:
    """A backbone on the device and a back end that serves it, made once."""
    vit = family(backbone)[0].to(device=DEVICE).in_precision(precision)
    return vit, backend_on(kind, vit)


@pytest.mark.parametrize(("name", "backbone"), PAIRS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_forward_equals_the_independent_reference_in_float64(
    name: str, backbone: str, alpha: float
) -> None:
    like, method = family(backbone)[0], method_of(name)
    images, tensors = images_of(like), random_tensors(method, like)
    precise = {key: tensor.double() for key, tensor in tensors.items()}
    model = family(backbone, dtype=torch.float64)[1]
    with torch.no_grad():
        reference = REFERENCES[name](model, precise, method.model_dump(), alpha)
        expected = reference.eval()(images.double())
    for kind, precision in ENGINES:
        vit, backend = resident(backbone, kind, precision)
        features = Features([Term(adapter=adapter_for(vit, name, like=like), alpha=alpha)])
        rows = [Row(image=i, model=features) for i in range(len(images))]
        found = torch.stack(backend.logits(list(images), rows)).double()
        error = float((found - expected).norm() / expected.norm())
        assert error <= BOUNDS[precision], f"{kind}, {precision}: {error:.2e}"


def models_of(vit: FrozenViT, like: FrozenViT, names: Sequence[str] = NAMES) -> list[Model]:
    """Adapters of all methods at two alphas, and a sum of three."""
    adapters = [adapter_for(vit, name, seed, like=like) for name, seed in itertools.product(names, (0, 1))]
    alone = [Model([Term(adapter=one, alpha=alpha)]) for one in adapters for alpha in (1.0, 0.3)]
    trio = [one for one in adapters if one.digest in ("lora-0", "ssf-0", "convpass-1")]
    return [*alone, Model([Term(adapter=one, alpha=0.3) for one in trio])]


@pytest.mark.parametrize(("kind", "precision"), ENGINES, ids=str)
@pytest.mark.parametrize("backbone", FAMILIES)
def test_a_row_among_rows_of_all_methods_is_what_it_is_alone(
    backbone: str, kind: str, precision: Precision
) -> None:
    like = family(backbone)[0]
    vit, backend = resident(backbone, kind, precision)
    images = list(images_of(like))
    rows = [
        Row(image=i % len(images), model=model)
        for i, model in enumerate(models_of(vit, like, names_on(backbone)))
    ]
    random.Random(4).shuffle(rows)

    together = backend.logits(images, rows)

    for row, found in zip(rows, together, strict=True):
        (alone,) = backend.logits([images[row.image]], [Row(image=0, model=row.model)])
        assert relative(found, alone) <= (1e-4 if precision is Precision.FP32 else BOUNDS[precision]), (
            row.model.key
        )


def mixtures(models: Sequence[Model], images: int, count: int) -> list[list[Row]]:
    """So many batches, each of other models in another order."""
    draw = random.Random(0)
    return [
        [Row(image=draw.randrange(images), model=draw.choice(models)) for _ in range(ROWS)]
        for _ in range(count)
    ]


@pytest.fixture
def tabled() -> tuple[Backend, list[torch.Tensor], list[Model]]:
    """A warm back end with graphs, images, and models with one edit set each that graphs take."""
    pytest.importorskip("triton")
    like = family("plain")[0]
    vit = like.to(device=DEVICE).in_precision(Precision.BF16)
    backend = backend_on("graph", vit)
    backend.warm(vit.arch.image_size)
    known = [name for name in NAMES if name not in ("full", "selective", "vpt_shallow", "vqt")]
    draw = random.Random(1)
    models = [
        Model([Term(adapter=adapter_for(vit, name, seed, like=like), alpha=draw.random())])
        for name, seed in itertools.product(known, range(3))
    ]
    return backend, list(images_of(like)), models


def test_other_adapters_alphas_and_mixtures_capture_and_compile_nothing(
    tabled: tuple[Backend, list[torch.Tensor], list[Model]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import triton

    backend, images, models = tabled
    captured, compiled = backend.captured, list[object]()  # type: ignore[attr-defined]
    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", lambda **made: compiled.append(made))

    for rows in mixtures(models, len(images), 5):
        backend.logits(images, rows)

    assert captured > 0
    assert backend.captured == captured  # type: ignore[attr-defined]
    assert compiled == []


def test_another_sum_of_as_many_adapters_captures_nothing(
    tabled: tuple[Backend, list[torch.Tensor], list[Model]],
) -> None:
    backend, images, models = tabled
    draw = random.Random(2)
    captured = []
    for _ in range(3):
        terms = [replaced for model in draw.sample(models, 2) for replaced in model.terms]
        backend.logits(images, [Row(image=0, model=Model(terms))])
        captured.append(backend.captured)  # type: ignore[attr-defined]

    assert captured[0] == captured[1] == captured[2]


def test_a_batch_waits_for_the_device_once(
    tabled: tuple[Backend, list[torch.Tensor], list[Model]],
) -> None:
    backend, images, models = tabled
    (rows,) = mixtures(models, len(images), 1)
    backend.logits(images, rows)  # the adapters are in their slots
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            backend.logits(images, rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert sum("synchronizing" in str(one.message) for one in said) <= 1
