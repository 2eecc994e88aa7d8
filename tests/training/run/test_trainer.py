import copy
import math
from itertools import chain, pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor

from petl_vit import methods
from petl_vit.errors import InvalidInput
from petl_vit.executors.joint import check_joins
from petl_vit.heads import LinearHead
from petl_vit.vit import FrozenViT
from tests.petl_vit.adapters import CLASSES, SMALL, images_of
from tests.petl_vit.backbones import FAMILIES, family
from tests.training.conftest import NEAR, SPEC, recipe
from training.data.loading import Resized
from training.data.records import Dataset
from training.run.precision import frozen
from training.run.recipe import Recipe
from training.run.trainer import Batch, Trained, Trainer, losses_of, train


def trainer(vit: FrozenViT, base_head: LinearHead, chosen: Recipe, **values: Any) -> Trainer:
    method = methods.get(chosen.method).configure(chosen.config)
    return Trainer(vit, method, base_head, chosen, **values)


def tensors(trained: Trained) -> dict[str, Tensor]:
    return trained.tensors | trained.head.tensors()


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("method", methods.names())
def test_the_loss_falls_and_the_backbone_stays_as_it_is_bit_for_bit(
    method: str, vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    before = {name: tensor.clone() for name, tensor in vit.params.items()}
    chosen = recipe(method, epochs=6, drop_path=0.0, head_init="random", learning_rate=3e-3)
    trained = trainer(vit, base_head, chosen).run(images)
    assert len(trained.losses) == 6
    assert trained.losses[-1] < 0.95 * trained.losses[0]
    assert_equal(dict(vit.params), before)
    assert not any(tensor.requires_grad for tensor in vit.params.values())
    assert trained.tensors.keys() == methods.get(method)().shapes(vit.arch).keys()


def test_training_changes_every_tensor_of_the_adapter_and_its_head_but_not_the_base_head(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    method, kept = methods.get("lora")(), base_head.weight.clone()
    start = method.init(vit, torch.Generator().manual_seed(0))
    trained = trainer(vit, base_head, recipe()).run(images)
    assert all(not torch.equal(tensor, start[name]) for name, tensor in trained.tensors.items())
    assert not torch.equal(trained.head.weight, base_head.weight)
    assert torch.equal(base_head.weight, kept)
    assert not any(tensor.requires_grad for tensor in tensors(trained).values())


@pytest.mark.numerics
def test_the_same_seed_gives_the_same_tensors_and_another_seed_others(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    chosen = recipe(augment="crop-flip")
    first = trainer(vit, base_head, chosen).run(images)
    torch.manual_seed(123)  # what the process did before does not matter
    assert_equal(tensors(first), tensors(trainer(vit, base_head, chosen).run(images)))
    other = trainer(vit, base_head, recipe(augment="crop-flip", seed=1)).run(images)
    assert not torch.equal(other.head.weight, first.head.weight)


@pytest.mark.parametrize("method", ["lora", "adaptformer", "vpt_deep", "full"])
@pytest.mark.numerics
def test_a_run_that_stopped_after_an_epoch_ends_as_if_it_never_had(
    method: str, vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    states: list[dict[str, Any]] = []

    def save(state: dict[str, Any]) -> None:
        states.append(copy.deepcopy(state))

    chosen = recipe(method, epochs=3, drop_path=0.3, augment="crop-flip")
    whole = trainer(vit, base_head, chosen, save=save).run(images)
    assert [state["epoch"] for state in states] == [1, 2, 3]
    for state in states:
        torch.manual_seed(99)
        later = trainer(vit, base_head, chosen)
        assert later.resume(state) == state["epoch"]
        rest = later.run(images)
        assert_equal(tensors(rest), tensors(whole))
        assert rest.losses == whole.losses


def test_dropout_and_drop_path_act_in_training(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    plain = trainer(vit, base_head, recipe(config={"dropout": 0.0}, drop_path=0.0)).run(images)
    for changed in (recipe(drop_path=0.0), recipe(config={"dropout": 0.0}, drop_path=0.5)):
        assert not torch.equal(trainer(vit, base_head, changed).run(images).head.weight, plain.head.weight)


def test_a_random_head_starts_elsewhere_than_the_probe(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    still = {"learning_rate": 1e-12, "weight_decay": 0.0, "epochs": 1}
    probed = trainer(vit, base_head, recipe(**still)).run(images)
    random = trainer(vit, base_head, recipe(head_init="random", **still)).run(images)
    assert torch.allclose(probed.head.weight, base_head.weight, atol=1e-6)
    assert random.head.weight.abs().max() <= vit.arch.width**-0.5 + 1e-6
    assert not torch.allclose(random.head.weight, base_head.weight, atol=1e-3)
    assert random.losses[0] > probed.losses[0]


def test_a_loss_that_is_no_longer_finite_stops_the_run_and_says_what_to_do(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    broken = LinearHead(weight=torch.full_like(base_head.weight, math.inf), bias=base_head.bias)
    with pytest.raises(
        InvalidInput, match=r"learning_rate: the loss became nan in epoch 1; train with a lower one"
    ) as error:
        trainer(vit, broken, recipe()).run(images)
    assert error.value.field == "learning_rate"


def test_a_last_step_that_leaves_the_numbers_behind_is_seen_without_another_loss(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    states: list[dict[str, Any]] = []
    trainer(vit, base_head, recipe(epochs=1), save=states.append).run(images)
    states[0]["head"]["head.bias"].fill_(math.nan)
    done = trainer(vit, base_head, recipe(epochs=1))
    done.resume(states[0])
    with pytest.raises(InvalidInput, match=r"head\.bias is no longer finite"):
        done.run(images)


def test_the_rate_rises_for_the_warm_up_and_falls_along_a_cosine_to_a_hundredth(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    rates: list[float] = []
    chosen = recipe("linear", epochs=10, batch_size=16, warmup_ratio=0.25, learning_rate=0.01)
    subject = trainer(vit, base_head, chosen)
    assert subject.steps(images) == 4
    subject.run(images, progress=lambda loss: rates.append(subject.optimizer.param_groups[0]["lr"]))
    assert rates[:10] == pytest.approx([0.001 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.01)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert rates[25] == pytest.approx(0.01 * (0.01 + 0.99 / 2))  # half-way down
    assert 0.0001 < rates[-1] < 0.00025


def test_every_image_is_seen_once_in_an_epoch_in_an_order_that_changes(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    seen: list[list[int]] = []

    class Counted(Resized):
        def batch(self, indices: Tensor, augment: torch.Generator | None = None) -> Tensor:
            seen.append(indices.tolist())
            assert augment is None  # none was asked for
            return super().batch(indices, augment)

    images.__class__ = Counted
    trainer(vit, base_head, recipe("linear", epochs=2)).run(images)
    first, second = list(chain(*seen[:4])), list(chain(*seen[4:]))
    assert sorted(first) == sorted(second) == list(range(60))
    assert first != second


# bf16


def one_step(subject: Trainer, images: Resized) -> float:
    """The loss of one step over all images; gradients stay."""
    subject.begin_epoch(0, 1)
    everything = torch.arange(len(images))
    batch = Batch(inputs=images.batch(everything), labels=images.labels)
    (loss,) = losses_of([subject], [batch], [0])
    assert loss.dtype == torch.float32
    loss.backward()
    return loss.item()


ALL_ON_TWO = list(product(methods.names(), ("plain", "siglip")))
ONE_ON_THE_OTHERS = [("lora", kind) for kind in FAMILIES if ("lora", kind) not in ALL_ON_TWO]


@pytest.mark.parametrize(("name", "kind"), ALL_ON_TWO + ONE_ON_THE_OTHERS)
@pytest.mark.numerics
def test_a_step_in_bf16_has_the_loss_of_fp32_and_a_finite_float32_gradient_everywhere(
    name: str, kind: str
) -> None:
    vit, _ = family(kind)
    kept = {} if "dropout" not in methods.get(name).model_fields else {"dropout": 0.0}
    config = SMALL.get(name, {}) | kept
    base = LinearHead.init(CLASSES, vit.arch.width, torch.Generator().manual_seed(1))
    inputs, labels = images_of(vit, 8), torch.arange(8) % CLASSES
    losses, gradients = [], []
    for precision in ("fp32", "bf16"):
        chosen = recipe(name, config=config, drop_path=0.0, head_init="random", precision=precision)
        subject = trainer(vit, base, chosen)
        subject.begin_epoch(0, 1)
        (loss,) = losses_of([subject], [Batch(inputs=inputs, labels=labels)], [0])
        loss.backward()
        losses.append(loss.item())
        found = {n: t.grad for n, t in subject.parameters.items()}
        for tensor_name, gradient in found.items():
            assert gradient is not None, tensor_name
            assert gradient.dtype == torch.float32, tensor_name
            assert gradient.isfinite().all(), tensor_name
        gradients.append(torch.cat([g.flatten() for g in found.values() if g is not None]))
    assert losses[1] == pytest.approx(losses[0], rel=5e-2)
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 0.1
    assert losses[1] != losses[0]  # it did compute in bf16


def test_in_bf16_the_frozen_backbone_takes_half_the_memory_and_the_one_that_was_given_stays(
    vit: FrozenViT,
) -> None:
    half = frozen(vit, "bf16")
    assert {p.dtype for p in vit.params.values()} == {torch.float32}
    sizes = [sum(p.nbytes for p in some.params.values()) for some in (vit, half)]
    assert sizes[1] < 0.51 * sizes[0]
    assert half.params["blocks.0.mlp.fc1.weight"].dtype == torch.bfloat16
    assert half.params["blocks.0.norm1.weight"].dtype == half.dtype == torch.float32
    assert all(p is vit.params[name] for name, p in frozen(vit, "fp32").params.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["lora", "bitfit", "selective", "full"])
def test_what_is_frozen_has_neither_gradients_nor_a_state_in_the_optimiser(
    method: str, precision: str, vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    subject = trainer(vit, base_head, recipe(method, precision=precision))
    one_step(subject, images)
    subject.advance()
    own, kept = subject.parameters, subject.optimizer.state
    assert {id(t) for t in kept} == {id(t) for t in own.values()}
    assert {t.dtype for t in own.values()} == {torch.float32}
    assert {t.dtype for state in kept.values() for t in state.values()} == {torch.float32}
    elements = sum(t.numel() for t in own.values())
    assert sum(t.numel() for state in kept.values() for t in state.values() if t.dim()) == 2 * elements
    for parameter in (*vit.params.values(), *subject.vit.params.values()):
        assert parameter.grad is None
        assert not parameter.requires_grad


@pytest.mark.parametrize("method", ["lora", "vpt_deep", "layernorm", "full"])
@pytest.mark.numerics
def test_a_run_in_bf16_learns_and_ends_in_float32_near_that_of_fp32(
    method: str, vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    settings: dict[str, Any] = {"epochs": 3, "drop_path": 0.0, "head_init": "random", "learning_rate": 3e-3}
    plain = trainer(vit, base_head, recipe(method, **settings)).run(images)
    half = trainer(vit, base_head, recipe(method, precision="bf16", **settings)).run(images)
    assert half.losses[-1] < half.losses[0]
    assert half.losses == pytest.approx(plain.losses, rel=5e-2)
    assert {t.dtype for t in tensors(half).values()} == {torch.float32}


# Several adapters in one forward


JOINING = ["adaptformer", "bitfit", "convpass", "difffit", "fact_tk", "fact_tt", "houlsby", "layernorm"]
JOINING += ["linear", "lora", "pfeiffer", "repadapter", "ssf", "vpt_deep"]


def lanes(vit: FrozenViT, base_head: LinearHead, **values: Any) -> list[Trainer]:
    """One adapter of every method that joins, and LoRA twice more: with another seed, and another rate."""
    chosen = [recipe(name, **values) for name in JOINING]
    chosen += [recipe(seed=1, **values), recipe(seed=2, learning_rate=1e-2, **values)]
    return [trainer(vit, base_head, one, name=f"{one.method}-{place}") for place, one in enumerate(chosen)]


def assert_near(one: Trained, other: Trained) -> None:
    """Of runs in float64."""
    assert one.losses == pytest.approx(other.losses, rel=1e-9)
    for name, tensor in tensors(one).items():
        expected = tensors(other)[name]
        assert tensor.dtype == torch.float64, name
        assert float((tensor - expected).abs().max()) <= NEAR * float(expected.abs().max()), name


def test_what_joins_is_all_but_four_methods() -> None:
    for name in JOINING:
        check_joins(methods.get(name))
    assert set(methods.names()) - set(JOINING) == {"full", "selective", "vpt_shallow", "vqt"}


def without_dropout(vit: FrozenViT, base_head: LinearHead) -> list[Trainer]:
    """Some of them; all of them join without noise in tests/petl_vit/executors/test_joint.py."""
    chosen = []
    for seed, name in ((0, "lora"), (0, "vpt_deep"), (0, "convpass"), (0, "linear"), (1, "lora")):
        config = {"dropout": 0.0} if "dropout" in methods.get(name).model_fields else {}
        chosen.append(recipe(name, config=config, drop_path=0.0, seed=seed, augment="flip"))
    return [trainer(vit, base_head, one) for one in chosen]


@pytest.mark.numerics
def test_adapters_that_learn_together_without_dropout_end_as_each_does_alone(
    exact: FrozenViT, base_head: LinearHead, exact_images: Resized
) -> None:
    together = train(without_dropout(exact, base_head), exact_images)
    for found, alone in zip(together, without_dropout(exact, base_head), strict=True):
        assert_near(found, alone.run(exact_images))


@pytest.mark.numerics
def test_dropout_and_drop_path_are_those_that_each_has_alone(
    exact: FrozenViT, base_head: LinearHead, exact_images: Resized
) -> None:
    values: dict[str, Any] = {"drop_path": 0.3, "augment": "crop-flip"}
    together = train(lanes(exact, base_head, **values), exact_images)
    for found, alone in zip(together, lanes(exact, base_head, **values), strict=True):
        assert_near(found, alone.run(exact_images))


def test_adapters_of_one_seed_share_the_reading_of_their_images(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    read: list[int] = []

    class Counted(Resized):
        def batch(self, indices: Tensor, augment: torch.Generator | None = None) -> Tensor:
            read.append(len(indices))
            return super().batch(indices, augment)

    images.__class__ = Counted
    chosen = [
        recipe("lora", epochs=1, seed=seed, learning_rate=rate) for seed in (0, 1) for rate in (1e-3, 1e-2)
    ]
    train([trainer(vit, base_head, one) for one in chosen], images)
    assert sum(read) == 2 * 60


@pytest.mark.numerics
def test_a_joint_run_that_stopped_between_two_saves_ends_as_if_it_never_had(
    exact: FrozenViT, base_head: LinearHead, exact_images: Resized
) -> None:
    def pair(saved: list[list[dict[str, Any]]]) -> list[Trainer]:
        chosen = [recipe("lora", epochs=3, drop_path=0.3), recipe("ssf", epochs=3, drop_path=0.3)]
        return [
            trainer(exact, base_head, one, save=lambda state, own=own: own.append(copy.deepcopy(state)))
            for one, own in zip(chosen, saved, strict=True)
        ]

    states: list[list[dict[str, Any]]] = [[], []]
    whole = train(pair(states), exact_images)
    for first, second in ((0, None), (1, 0), (1, 1), (2, 1)):
        resumed = pair([[], []])
        resumed[0].resume(copy.deepcopy(states[0][first]))  # the optimiser goes on in what it is given
        if second is not None:
            resumed[1].resume(copy.deepcopy(states[1][second]))
        shown: list[float] = []
        rest = train(resumed, exact_images, progress=shown.append)
        assert len(shown) == 4 * (3 - (0 if second is None else second + 1))  # steps of those furthest behind
        for found, expected in zip(rest, whole, strict=True):
            assert_near(found, expected)


def test_a_loss_that_diverged_among_several_names_its_adapter_and_its_rate(
    vit: FrozenViT, base_head: LinearHead, images: Resized
) -> None:
    broken = LinearHead(weight=torch.full_like(base_head.weight, math.inf), bias=base_head.bias)
    sound = trainer(vit, base_head, recipe("ssf"), name="fine")
    wild = trainer(vit, broken, recipe(learning_rate=1e-2), name="wild")
    with pytest.raises(InvalidInput, match=r"rate: the loss of wild became nan in epoch 1; .* than 0\.01"):
        train([sound, wild], images)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_adapters_learn_together_as_alone_and_as_on_the_host(
    precision: str, vit: FrozenViT, base_head: LinearHead, dataset: Dataset, images: Resized
) -> None:
    device = torch.device("cuda")
    there = vit.to(device=device)
    chosen = [
        recipe(name, precision=precision, config=config, drop_path=0.0)
        for name, config in (("lora", {"dropout": 0.0}), ("ssf", {}), ("vpt_deep", {"dropout": 0.0}))
    ]
    on_device = Resized(dataset, SPEC, there)
    together = train([trainer(there, base_head, one) for one in chosen], on_device)
    for found, one in zip(together, chosen, strict=True):
        assert found.losses == pytest.approx(trainer(there, base_head, one).run(on_device).losses, rel=2e-2)
        assert found.losses == pytest.approx(trainer(vit, base_head, one).run(images).losses, rel=5e-2)


@pytest.mark.gpu
def test_on_a_gpu_dropout_and_drop_path_are_those_that_each_has_alone(
    vit: FrozenViT, base_head: LinearHead, dataset: Dataset
) -> None:
    there = vit.to(device=torch.device("cuda"))
    images = Resized(dataset, SPEC, there)
    values: dict[str, Any] = {"drop_path": 0.3}
    together = train(lanes(there, base_head, **values), images)
    for found, alone in zip(together, lanes(there, base_head, **values), strict=True):
        assert found.losses == pytest.approx(alone.run(images).losses, rel=1e-2)
