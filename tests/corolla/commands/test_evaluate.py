import json
import re

import pytest

from model_store.format.records import Draft
from model_store.store import Store
from tests.corolla.shell import QUICK, Shell
from tests.training.conftest import write_npz

_COLUMNS = ["route", "set", "images", "accuracy", "95", "%", "ECE"]
MEASURE = ["evaluate", "--task", "digits", "--data", "digits", "--device", "cpu", "--precision", "fp32"]


def test_evaluation_measures_every_route_on_every_set_and_shift(trained: Shell) -> None:
    assert trained.train("ssf")[0] == 0
    other = write_npz(trained.folder / "other.npz", names=list("0123456789"))
    command = [*MEASURE, "--data", other, "--limit", "20"]
    command += ["--shift", "noise:3", "--route", "lora", "--route", "0.5*lora, ssf"]
    found = trained.document(*command, "--json")
    assert [(one["source"], one["shift"], one["images"], one["shifted"]) for one in found["sets"]] == [
        ("digits", None, 20, False),
        ("digits", "noise:3", 20, True),
        (other, None, 20, True),
        (other, "noise:3", 20, True),
    ]
    rows = found["results"]
    assert [(row["route"], row["set"]) for row in rows] == [
        (route, data)
        for route in ("lora:1", "0.5*lora:1, ssf:1")
        for data in ("digits", "digits noise:3", "other", "other noise:3")
    ]
    assert rows[4]["member_accuracies"].keys() == {"0.5*lora:1", "ssf:1"}
    assert all(20 * row["accuracy"] % 1 == pytest.approx(0, abs=1e-6) for row in rows)  # of 20 images
    assert found["machine"]["precision"] == "fp32"
    assert found["logits"] == {"computed": 12, "reused": 0}
    code, out, err = trained(*command)
    assert code == 0
    header, *lines = out.splitlines()
    assert header.split() == [*_COLUMNS, "agreement"]
    assert lines[8] == "computed in fp32 on cpu"  # nothing wraps in a log
    assert lines[5].split()[:5] == ["0.5*lora:1,", "ssf:1", "digits", "noise:3", "20"]
    said = [line.rpartition(" in ")[0] or line for line in err.splitlines() if "training images" not in line]
    assert said[:2] == [f"3 models on {one} and under 1 shift: 40" for one in ("digits", other)]
    assert said[2].startswith("logits of models on sets: 0 computed, 12 taken from ")


def test_the_held_out_images_of_training_are_measured_again_with_the_same_result(shell: Shell) -> None:
    command = ["train", "bitfit", "--data", "digits", "--limit", "60", "--task", "digits", *QUICK, "--json"]
    metrics = shell.document(*command, "--holdout", "0.1", "--split-seed", "3")["metrics"]
    command = [*MEASURE, "--holdout", "0.1", "--split-seed", "3"]
    adapter, base = shell.document(*command, "--route", "bitfit", "--route", "base", "--json")["results"]
    assert adapter["accuracy"] == metrics["accuracy"]
    assert base["accuracy"] == metrics["base_accuracy"]


def test_images_that_a_route_was_trained_on_are_counted_and_left_out_of_held_out_ones(trained: Shell) -> None:
    command = [*MEASURE, "--route", "lora", "--route", "base"]
    found = trained.document(*command, "--json")
    assert [one["images"] for one in found["sets"]] == [1797]
    assert [row["trained_on"] for row in found["results"]] == [60, 60]
    code, out, err = trained(*command)
    assert code == 0
    assert out.splitlines()[0].endswith("trained on")
    assert "60 of the 1797 images of digits are training images of lora:1, base: accuracy on them says" in err
    code, out, err = trained(*command, "--holdout", "0.5", "--split-seed", "1")
    assert code == 0
    assert "held-out images are training images of lora:1, base: they are left out" in err
    assert "trained on" not in out


def test_a_single_route_has_no_columns_for_members(trained: Shell) -> None:
    command = [*MEASURE, "--limit", "10", "--holdout", "0.2", "--route", "base"]
    assert trained(*command)[1].splitlines()[0].split() == _COLUMNS


def test_a_named_route_brings_its_temperature(trained: Shell) -> None:
    assert trained("routes", "put", "hot", "lora", "--task", "digits", "--temperature", "10")[0] == 0
    command = [*MEASURE, "--limit", "20", "--json", "--route", "lora"]
    found = trained.document(*command, "--route", "hot")
    plain, hot = found["results"]
    assert hot["accuracy"] == plain["accuracy"]
    assert hot["confidence"] < plain["confidence"]
    assert hot["raw"]["confidence"] == plain["confidence"]
    routes = [(one["label"], one["text"], one["temperature"]) for one in found["routes"]]
    assert routes == [("lora:1", "lora:1", 1.0), ("hot", "lora:1", 10.0)]


def test_a_temperature_of_other_versions_is_not_measured_with_and_said(trained: Shell) -> None:
    adapters = Store.open(str(trained.folder / "store")).adapters
    manifest = adapters.manifest("digits", "lora", 1)
    tensors = adapters.load(manifest)
    draft = Draft.of(**{name: getattr(manifest, name) for name in Draft.model_fields})
    adapters.publish(draft, tensors | {"head.bias": tensors["head.bias"] + 0.01})
    adapters.set_alias("digits", "lora", "prod", 1)
    assert (
        trained("routes", "put", "hot", "lora@prod, lora@prod", "--task", "digits", "--temperature", "9")[0]
        == 0
    )
    adapters.set_alias("digits", "lora", "prod", 2)

    command = [*MEASURE, "--limit", "20", "--json", "--route", "hot", "--route", "lora:2, lora:2"]
    code, out, err = trained(*command)
    assert code == 0
    hot, plain = json.loads(out)["results"]
    assert hot.pop("route") == "hot"
    assert plain.pop("route") == "lora:2, lora:2"
    assert hot == plain
    assert "route hot: temperature 9 is for digits/lora:1 and is not applied: digits/lora:2" in err


def test_a_temperature_is_fitted_for_the_versions_that_answer(trained: Shell) -> None:
    assert trained("routes", "put", "live", "lora, base", "--task", "digits")[0] == 0
    command = ["routes", "fit", "live", "--data", "digits", "--device", "cpu", "--precision", "fp32"]
    code, out, _ = trained(*command)
    assert code == 0
    said = re.match(
        r"route digits/live answers by lora:1, base at temperature (\S+), was 1; fitted on 359 images\n", out
    )
    assert said is not None
    document = trained.document("routes", "show", "live", "--json")
    assert f"{document['temperature']:.4g}" == said[1] != "1"
    assert [version["adapter"] for version in document["versions"]] == ["digits/lora:1", "digits/base"]
    assert document["note"] == ""

    few = write_npz(trained.folder / "few.npz", names=list("0123456789"))
    assert "images are fewer than 50" in trained.refused(*command[:3], *command[5:], "--data", few)
    assert trained("routes", "put", "votes", "vote(lora, base)", "--task", "digits")[0] == 0
    assert "does not combine logits" in trained.refused("routes", "fit", "votes", *command[3:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--route", "loar"], "did you mean lora?"),
        (["--route", "lora:9"], "version"),
        (["--route", "lora,"], "route"),
        (["--route", "1.5*lora"], "alpha"),
        (["--route", "lora", "--shift", "noise"], "shift: 'noise' is not a shift; write NAME:SEVERITY"),
        (["--route", "lora", "--shift", "nosie:3"], "did you mean noise?"),
        (["--route", "lora", "--shift", "noise:9"], "severity"),
        (["--route", "lora", "--limit", "0"], "--limit"),
        (["--route", "lora", "--data", "nowhere"], "data: "),
        (["--route", "lora", "--task", "digit"], "task"),
    ],
)
def test_a_wrong_evaluation_is_refused_in_one_sentence(
    trained: Shell, arguments: list[str], message: str
) -> None:
    assert message in trained.refused(*MEASURE, *arguments)
