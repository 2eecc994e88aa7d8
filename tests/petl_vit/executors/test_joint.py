"""Adapters that learn in one forward: each lane is what a `Functional` of its own makes of its rows."""

import pytest
import torch
from torch import Tensor

from petl_vit import methods
from petl_vit.errors import Unsupported
from petl_vit.executors.functional import Functional
from petl_vit.executors.joint import Joint, Learner, check_joins
from petl_vit.noise import Noise
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import NAMES, images_of, method_of, names_on, random_tensors
from tests.petl_vit.backbones import FAMILIES, family, relative

pytestmark = pytest.mark.numerics

ALONE = {
    "full": "replaces parameters",
    "selective": "replaces parameters",
    "vpt_shallow": "carries tokens",
    "vqt": "joins queries",
}
JOINING = [name for name in NAMES if name not in ALONE]
CPU = torch.device("cpu")


def trainable(vit: FrozenViT, name: str, seed: int) -> dict[str, Tensor]:
    tensors = random_tensors(method_of(name), vit, seed)
    return {n: t.requires_grad_() for n, t in tensors.items()}


def assert_equal_to_alone(vit: FrozenViT, names: list[str], drop_path: float) -> None:
    """Features and gradients of lanes of different lengths, against each adapter alone; float64."""
    joint, alone = ([trainable(vit, n, seed) for seed, n in enumerate(names)] for _ in range(2))
    images = [images_of(vit, 1 + place % 3, seed=place) for place in range(len(names))]
    learners = [
        Learner(
            rows=len(images[place]),
            edits=method_of(name).edits(vit, joint[place]),
            drop_path=drop_path,
            noise=Noise(CPU, place),
        )
        for place, name in enumerate(names)
    ]
    features = vit.forward(torch.cat(images), Joint(vit, learners))
    features.square().sum().backward()
    parts = features.split([len(own) for own in images])
    for place, name in enumerate(names):
        edits, noise = method_of(name).edits(vit, alone[place]), Noise(CPU, place)
        run = Functional(vit, edits, noise=noise, drop_path=drop_path)
        expected = vit.forward(images[place], run)
        assert relative(parts[place].detach(), expected.detach()) <= 1e-9, name
        if not alone[place]:
            continue  # nothing is trained but the head
        expected.square().sum().backward()
        for tensor_name, tensor in alone[place].items():
            found, wanted = joint[place][tensor_name].grad, tensor.grad
            assert found is not None, (name, tensor_name)
            assert wanted is not None, (name, tensor_name)
            assert float((found - wanted).norm()) <= 1e-8 * max(float(wanted.norm()), 1e-6), (
                name,
                tensor_name,
            )


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("drop_path", [0.0, 0.4])
def test_every_method_that_joins_learns_beside_all_others_what_it_would_alone(
    kind: str, drop_path: float
) -> None:
    vit, _ = family(kind, dtype=torch.float64)
    assert_equal_to_alone(vit, [name for name in names_on(kind) if name in JOINING], drop_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("kind", "scale"), [("dinov2", 1.0), ("dinov2", 0.01), ("dinov3", 1.0)])
def test_an_adapter_alone_has_the_gradients_that_autograd_finds(name: str, kind: str, scale: float) -> None:
    """Alone its edits are carried out in other ways; with small scales and tensors in yet another."""
    vit, _ = family(kind, dtype=torch.float64)
    method, images, found = method_of(name), images_of(vit, 3), []
    for by_hand in (False, True):
        tensors = {n: (scale * t).requires_grad_() for n, t in random_tensors(method, vit, 1).items()}
        edits, noise = method.edits(vit, tensors), Noise(CPU, 3)
        learner = Learner(rows=3, edits=edits, drop_path=0.4, noise=noise)
        run = Joint(vit, [learner]) if by_hand else Functional(vit, edits, noise=noise, drop_path=0.4)
        features = vit.forward(images, run)
        if tensors:
            features.square().sum().backward()
        found.append([features.detach(), *(t.grad for t in tensors.values())])
    for wanted, by_hand_found in zip(*found, strict=True):
        assert float((by_hand_found - wanted).norm()) <= 1e-8 * max(float(wanted.norm()), 1e-6)


def test_nothing_before_the_first_edit_has_a_gradient() -> None:
    vit, _ = family("plain", dtype=torch.float64)
    last = vit.arch.depth - 1
    method = methods.get("selective").configure({"blocks": (last,)})
    tensors = {n: t.requires_grad_() for n, t in random_tensors(method, vit, 0).items()}
    streams: list[Tensor] = []

    class Watched(Joint):
        def norm(self, site: str, x: Tensor) -> Tensor:
            streams.append(x)
            return super().norm(site, x)

    learner = Learner(rows=2, edits=method.edits(vit, tensors), drop_path=0.4, noise=Noise(CPU, 0))
    vit.forward(images_of(vit, 2), Watched(vit, [learner]))
    assert [x.requires_grad for x in streams[: 2 * last + 1]] == [False] * (2 * last + 1)
    assert streams[-1].requires_grad


def test_adapters_of_one_method_keep_to_their_own_rows() -> None:
    vit, _ = family("plain", dtype=torch.float64)
    assert_equal_to_alone(vit, ["lora", "lora", "vpt_deep", "vpt_deep", "houlsby", "houlsby"], 0.4)


def test_a_lane_that_is_no_longer_finite_leaves_the_others_as_they_are() -> None:
    vit, _ = family("plain", dtype=torch.float64)
    broken, sound = trainable(vit, "lora", 0), trainable(vit, "lora", 1)
    with torch.no_grad():
        next(iter(broken.values())).fill_(torch.nan)
    learners = [
        Learner(rows=2, edits=method_of("lora").edits(vit, t), drop_path=0.0, noise=Noise(CPU, 0))
        for t in (broken, sound)
    ]
    features = vit.forward(images_of(vit, 4), Joint(vit, learners))
    features[2:].sum().backward()
    assert features[:2].isnan().all()
    assert features[2:].isfinite().all()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in sound.values())


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_share_a_forward_is_refused_by_name_with_the_reason(name: str) -> None:
    if name in JOINING:
        check_joins(methods.get(name))
        return
    with pytest.raises(Unsupported, match=f"{ALONE[name]}.*train it alone") as error:
        check_joins(methods.get(name))
    assert error.value.problem.startswith(methods.get(name).title)
    assert error.value.field == "method"
