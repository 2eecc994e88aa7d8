import pytest

from petl_vit.summaries import summaries
from training.study.report.published_results import by_size, interpolated, low_shot


def test_means_of_groups_are_those_of_the_last_epoch_with_the_augmented_cifar() -> None:
    found = low_shot()
    assert [found[group]["linear"] for group in found] == pytest.approx([0.7313, 0.8054, 0.3207], abs=5e-5)
    assert [found[group]["convpass"] for group in found] == pytest.approx([0.8295, 0.8515, 0.6235], abs=5e-5)
    assert all(len(methods) == 16 for methods in found.values())


def test_accuracy_by_size_has_every_rank_of_a_method() -> None:
    clevr = by_size()["clevr_dist-full"]
    lora = [(one.parameters, one.accuracy) for one in clevr if one.method == "lora"]
    assert lora[0] == (36_864, pytest.approx(0.9142))
    assert lora[-1] == (9_437_184, pytest.approx(0.9047))
    assert len(lora) == 9


def test_curves_run_from_the_zero_shot_model_to_each_tuned_one() -> None:
    curves = {one.method: one for one in interpolated()}
    assert {round(one.accuracy[0], 4) for one in curves.values() if len(one.alphas) > 1} == {0.6769}
    linear = curves["linear"]
    assert (linear.alphas, *linear.accuracy, *linear.shifted) == ((1.0,), 0.7428, pytest.approx(0.56885))
    full = curves["full"]
    assert full.alphas[::5] == (0.0, 0.5, 1.0)
    assert (full.accuracy[-1], full.shifted[-1]) == pytest.approx((0.7495, 0.4250), abs=5e-5)


def test_methods_have_the_names_that_they_have_here() -> None:
    named = {method for methods in low_shot().values() for method in methods}
    named |= {one.method for ones in by_size().values() for one in ones}
    named |= {one.method for one in interpolated()}
    assert named <= set(summaries())
