"""Methods whose targets are a setting, on all of them, against the independent references."""

from typing import Any

import pytest
import torch

from petl_vit import methods
from tests.petl_vit.adapters import images_of, random_tensors
from tests.petl_vit.backbones import family, reference_model, relative
from tests.petl_vit.reference import REFERENCES
from tests.petl_vit.test_methods import features

LINEARS = ("qkv", "proj", "fc1", "fc2")
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("lora", {"rank": 3, "targets": LINEARS}),
    ("dora", {"rank": 3, "scale": 0.7, "targets": LINEARS}),
    ("vera", {"rank": 5, "projection_seed": 9, "d_initial": 1.0, "targets": LINEARS}),
    ("ia3", {"targets": ("q", "k", "v", "proj", "fc1", "hidden")}),
    ("ia3", {"targets": ("q", "fc2")}),
]


@pytest.mark.parametrize("kind", ["dinov2", "swiglu", "dinov3", "dinov3-plus"])
@pytest.mark.parametrize(("name", "config"), SETTINGS)
def test_every_target_equals_the_reference(name: str, config: dict[str, Any], kind: str) -> None:
    vit, _ = family(kind, dtype=torch.float64)
    model, images = reference_model(kind, dtype=torch.float64), images_of(vit)
    method = methods.get(name).configure(config)
    tensors = random_tensors(method, vit)
    for alpha in (0.0, 0.5, 1.0):
        with torch.no_grad():
            expected = REFERENCES[name](model, tensors, method.model_dump(), alpha)(images)
            for executor in ("functional", "sliced"):
                found = features(vit, method, tensors, images, alpha, executor)
                assert relative(found, expected) <= 1e-10, f"{executor}, alpha {alpha}"
