import pytest

from tests.training.study.report.small import curve, joined, small
from training.study.report.answers.claims import verdicts
from training.study.report.material import Material, control_of

CLAIMS = ("similar", "linear", "full", "size", "mistakes", "ensembles", "diversity", "shift", "wise")
HERE = {"linear:1": 0.80, "layernorm:1": 0.90, "bitfit:1": 0.91, "lora:1": 0.92, "full:1": 0.85}


def said(material: Material) -> dict[str, str]:
    return {name: one.verdict for name, one in zip(CLAIMS, verdicts(material), strict=True)}


def of(there: dict[str, float] | None = None, **more: object) -> dict[str, str]:
    accuracies = {"photo": HERE} | ({"sketch": HERE | there} if there else {})
    return said(Material(evaluation=small(accuracies, **more)))  # type: ignore[arg-type]


def test_claims_about_single_methods_hold_where_paired_tests_say_so() -> None:
    found = of()
    assert (found["linear"], found["full"]) == ("holds here", "holds here")
    linear_best = small({"photo": {"layernorm:1": 0.885, "bitfit:1": 0.92, "linear:1": 0.96}})
    assert said(Material(evaluation=linear_best))["linear"] == "does not hold here"


def test_the_base_is_not_counted_among_adapters_of_a_trained_head() -> None:
    linear = verdicts(Material(evaluation=small({"photo": HERE | {"base": 0.8}})))[1]
    assert linear.because.startswith("Of 3 comparisons with linear, PETL is better in 3")
    alone = verdicts(Material(evaluation=small({"photo": {"base": 0.8, "lora:1": 0.92}})))[1]
    assert alone.because.startswith("Of 1 comparison with the base head, PETL is better in 1")


@pytest.mark.parametrize(
    ("lowest", "verdict", "because"),
    [
        (0.92, "holds here", "0 of 3 pairs differ by more than chance, and 3 are shown to be less than 2.0"),
        (0.91, "cannot be told", "0 of 3 pairs differ by more than chance, and 1 is shown"),
        (0.87, "does not hold here", "2 of 3 pairs differ by more than chance, and 1 is shown"),
    ],
)
def test_accuracies_are_similar_only_where_every_interval_of_a_difference_is_near_zero(
    lowest: float, verdict: str, because: str
) -> None:
    """Intervals here reach two points to either side of a difference."""
    found = small({"photo": {"layernorm:1": lowest, "bitfit:1": 0.92, "lora:1": 0.92}})
    similar = verdicts(Material(evaluation=found))[0]
    assert similar.verdict == verdict
    assert because in similar.because


def test_two_adapters_of_one_method_do_not_say_that_methods_are_similar() -> None:
    found = small({"photo": {"lora:1": 0.92, "bitfit:1": 0.92}})
    same = [one.model_copy(update={"method": "lora"}) for one in found.routes]
    evaluation = found.model_copy(update={"routes": tuple(same)})
    assert said(Material(evaluation=evaluation))["similar"] == "was not measured"


@pytest.mark.parametrize(
    ("full", "verdict"), [(0.5, "holds here"), (0.61, "cannot be told"), (0.8, "does not hold here")]
)
def test_petl_keeps_shifted_accuracy_only_where_it_is_measurably_above_full(
    full: float, verdict: str
) -> None:
    there = {"layernorm:1": 0.6, "bitfit:1": 0.61, "lora:1": 0.62, "full:1": full}
    assert of(there)["shift"] == verdict


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.04, "holds here"), (0.01, "cannot be told"), (-0.05, "does not hold here")]
)
def test_an_ensemble_has_to_beat_its_best_member_and_its_control(gain: float, verdict: str) -> None:
    assert of(ensembles=(joined(gain),))["ensembles"] == verdict
    found = of(ensembles=(joined(0.04, over_control=gain),))
    assert (found["ensembles"], found["diversity"]) == ("holds here", verdict)


@pytest.mark.parametrize(
    ("half", "verdict"), [(0.7, "holds here"), (0.61, "cannot be told"), (0.5, "does not hold here")]
)
def test_interpolation_gives_accuracy_back_only_beyond_chance(half: float, verdict: str) -> None:
    curves = (curve("lora:1", (0.8, 0.9, 0.92), (0.6, half, 0.6)),)
    assert of({"lora:1": 0.6}, curves=curves)["wise"] == verdict


def test_what_was_not_measured_is_said_to_be_so() -> None:
    found = said(Material(evaluation=small({"photo": {"lora:1": 0.9}})))
    assert set(found.values()) == {"was not measured"}


def test_the_control_is_the_strongest_of_the_largest() -> None:
    one = joined(0.04, over_control=0.04)
    control = one.controls[0]
    others = (
        control.model_copy(update={"method": "ssf", "mean": 0.95}),
        control.model_copy(update={"method": "full", "mean": 0.99, "size": 1}),
    )
    found = control_of(one.model_copy(update={"controls": (control, *others)}))
    assert found is not None
    assert found.method == "ssf"
