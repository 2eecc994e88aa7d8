from tests.corolla.shell import Shell
from training.data.shift import IMAGENET_C


def test_a_suite_of_shifts_is_measured_by_name(trained: Shell) -> None:
    command = ["evaluate", "lora", "--task", "digits", "--data", "digits", "--limit", "10", "--device", "cpu"]
    command += ["--precision", "fp32"]
    evaluation = trained.document(*command, "--shifts", "imagenet-c:2", "--shift", "noise:1", "--json")
    shifts = [one["shift"] for one in evaluation["sets"]]
    assert shifts == [None, *(f"{name}:2" for name in IMAGENET_C), "noise:1"]
    assert len({one["name"] for one in evaluation["sets"]}) == 17
    assert len(evaluation["results"]) == 17


def test_a_suite_that_does_not_exist_names_its_near_match(trained: Shell) -> None:
    command = ["evaluate", "lora", "--task", "digits", "--data", "digits"]
    assert "--shift: the shift 'imagnet-c' is unknown; did you mean imagenet-c?" in trained.refused(
        *command, "--shifts", "imagnet-c:2"
    )
