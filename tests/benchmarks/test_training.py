import pytest

from benchmarks import training
from benchmarks.training import CACHED, FOUR, FULL, JOINT, OURS, PEFT, UNCACHED
from benchmarks.training_inside.peaks import Peak
from benchmarks.training_inside.steps import Ground


def test_ratios_are_of_the_slowest_method_the_sum_of_four_and_the_larger_memory() -> None:
    taken = {name: [1.0] for name in FOUR}
    taken |= {FULL: [2.0], OURS: [0.9], PEFT: [1.0], "convpass": [1.4], "vpt_shallow": [3.0], JOINT: [3.0]}
    taken |= {UNCACHED: [2.0], CACHED: [0.1]}
    ours, theirs = Peak(before=100, most=150, said=40), Peak(before=140, most=200)

    found = training.figures(taken, ours, theirs)

    values = {name: getattr(value, "value", value) for name, value in found.items()}
    assert values["lora_over_peft_step"] == pytest.approx(0.9)
    assert (values["petl_over_full_step"], values["slowest"]) == (pytest.approx(0.7), "convpass")
    assert values["four_joint_over_four_runs"] == pytest.approx(0.75)
    assert values["linear_epoch_cached_over_uncached"] == pytest.approx(0.05)
    assert values["peak_memory_over_peft"] == pytest.approx(50 / 60)
    assert values["grown_over_said"] == pytest.approx(1.25)
    assert values["peak_memory_over_peft_whole"] == pytest.approx(0.75)


@pytest.mark.slow
@pytest.mark.benchmarks
def test_every_step_is_measured_beside_a_peft_that_computes_the_same() -> None:
    ground = Ground(architecture="test_vit", image_size=32, batch=2, precision="fp32")
    taken = training.measure(ground, [*FOUR, FULL], rounds=1)
    assert taken.keys() == {OURS, PEFT, *FOUR, FULL, JOINT, UNCACHED, CACHED}
    assert all(len(costs) == 1 for costs in taken.values())
