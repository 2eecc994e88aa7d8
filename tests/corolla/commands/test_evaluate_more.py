"""What `corolla evaluate` measures where nothing is named, what it writes, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from model_store.format.records import Draft
from model_store.store import Store
from tests.corolla.shell import Shell
from tests.training.conftest import write_npz
from training.measure.document import Evaluation, load_evaluation

QUICK = ["evaluate", "--device", "cpu", "--precision", "fp32", "--limit", "20"]


def publish_seeds(shell: Shell) -> None:
    """Adapters as if they had been trained: another seed of lora, and one of another learning rate."""
    adapters = Store.open(str(shell.folder / "store")).adapters
    lora = adapters.manifest("digits", "lora", 1)
    tensors = adapters.load(lora)
    for name, change in (("lora-1", {"seed": 1}), ("lora-hot", {"learning_rate": 0.5, "seed": 1})):
        fields = {field: getattr(lora, field) for field in Draft.model_fields}
        fields |= {"name": name, "training": lora.training | change}
        head = tensors["head.bias"] + 0.01 * len(name)
        adapters.publish(Draft.of(**fields), tensors | {"head.bias": head})


@pytest.fixture
def evaluated(trained: Shell) -> tuple[Shell, Evaluation]:
    """All that the task has, on two sets."""
    publish_seeds(trained)
    few = write_npz(trained.folder / "few.npz", classes=3, names=list("012"))
    code, _, err = trained(*QUICK, "--data", "digits", "--data", few, "--out", str(trained.folder / "e.json"))
    assert code == 0, err
    return trained, load_evaluation(trained.folder / "e.json")


def test_without_a_route_everything_of_the_task_and_its_ensembles_are_measured(
    evaluated: tuple[Shell, Evaluation],
) -> None:
    _, found = evaluated
    assert [(one.label, one.kind) for one in found.routes] == [
        ("base", "base"),
        ("lora:1", "adapter"),
        ("lora-1:1", "adapter"),
        ("lora-hot:1", "adapter"),
        ("mean of 2: one of each", "ensemble"),
        ("mean of 2: seeds of lora", "ensemble"),
        ("mean of 3: all", "ensemble"),
    ]
    assert [one.name for one in found.sets] == ["digits", "few"]
    seeds = {one.label: one.seeds_of for one in found.routes}
    assert seeds["lora:1"] == seeds["lora-1:1"] != seeds["lora-hot:1"]
    each = next(one for one in found.ensembles if one.route == "mean of 2: one of each")
    assert each.members == ("lora:1", "lora-hot:1")
    assert [(one.method, one.seeds) for one in each.controls] == [("lora", ("lora:1", "lora-1:1"))]


def test_a_set_may_lack_classes_of_the_task(evaluated: tuple[Shell, Evaluation]) -> None:
    _, found = evaluated
    result = found.result("lora:1", "few")
    assert [one.recall is None for one in result.per_class] == [False] * 3 + [True] * 7
    assert found.sets[1].class_counts[3:] == (0,) * 7


def test_tables_say_the_best_the_pairs_and_the_ensembles(evaluated: tuple[Shell, Evaluation]) -> None:
    shell, found = evaluated
    command = [*QUICK, "--data", "digits", "--data", found.sets[1].source, "--alphas", "0.5"]
    code, out, err = shell(*command)
    assert code == 0
    text = " ".join(out.split())
    assert "best on digits: " in text
    assert "pair agree on digits agree on few" in text
    assert "ensemble set best member over the best, points control over the control, points" in text
    assert "2 seeds of lora 0." in text
    assert "alpha of lora:1 0 0.5 1 digits 0." in text
    assert "alpha by accuracy on the first set: " in text
    assert "route by accuracy on the first set: " in text
    assert "logits of models on sets: 6 computed, 8 taken from " in err  # 3 adapters at 0.5 are new
    code, full, _ = shell(*command, "--full")
    assert code == 0
    header = " ".join(full.splitlines()[0].split())
    assert "NLL Brier ECE fitted NLL fitted Brier fitted confidence macro-F1 robustness parameters" in header
    assert "set route class images precision recall F1 its wrong answers" in " ".join(full.split())
    assert "errors shared" in full
    assert "few, robustness" in full


def test_a_route_is_an_argument_and_members_of_a_named_route_are_measured_alone(trained: Shell) -> None:
    assert trained("routes", "put", "live", "2: lora, 0.5*lora", "--task", "digits")[0] == 0
    found = trained.document(*QUICK, "live", "--members-of", "live", "--data", "digits", "--json")
    assert [(one["label"], one["text"]) for one in found["routes"]] == [
        ("live", "2: lora:1, 0.5*lora:1"),
        ("lora:1", "lora:1"),
        ("0.5*lora:1", "0.5*lora:1"),
    ]
    assert found["results"][0]["member_accuracies"].keys() == {"lora:1", "0.5*lora:1"}
    assert [(one["a"], one["b"]) for one in found["pairs"]] == [("lora:1", "0.5*lora:1")]
    one = trained.document(*QUICK, "lora", "--route", "base", "--alpha-curve", "--data", "digits", "--json")
    assert [route["label"] for route in one["routes"]] == ["lora:1", "base"]
    assert one["curves"][0]["alphas"] == [i / 10 for i in range(11)]


def test_routes_by_block_are_measured_and_their_logits_stored_as_their_own(trained: Shell) -> None:
    routes = ("lora", "0.2..1*lora", "0.5[0]*lora")
    command = [*QUICK, *routes, "--data", "digits", "--json"]
    found = trained.document(*command)
    assert [(one["label"], one["kind"]) for one in found["routes"]] == [
        ("lora:1", "adapter"),
        ("0.2..1*lora:1", "alpha"),
        ("0.5[0]*lora:1", "alpha"),
    ]
    assert found["logits"] == {"computed": 3, "reused": 0}
    again = trained.document(*command, "0.3..1*lora")
    assert again["logits"] == {"computed": 1, "reused": 3}
    assert again["results"][:3] == found["results"]


def test_a_holdout_splits_only_what_was_trained_on(trained: Shell) -> None:
    other = Path(write_npz(trained.folder / "other.npz", images=40, names=list("0123456789")))
    arrays = dict(np.load(other))
    np.savez(other, **arrays | {"images": 255 - arrays["images"]})
    command = ["evaluate", "lora", "--device", "cpu", "--precision", "fp32", "--data", "digits"]
    code, out, err = trained(*command, "--data", str(other), "--holdout", "0.2", "--json")
    assert code == 0
    assert [one["images"] for one in json.loads(out)["sets"]] == [359, 40]
    assert f"no route was trained on an image of {other}, so --holdout takes none of them away" in err


def test_the_file_is_not_replaced_unasked_and_says_what_people_were_told(
    evaluated: tuple[Shell, Evaluation],
) -> None:
    shell, found = evaluated
    assert any("logits of models on sets: 8 computed" in note for note in found.notes)
    out = str(shell.folder / "e.json")
    command = [*QUICK, "base", "--data", "digits", "--out", out]
    assert "exists; choose another, or add --overwrite" in shell.refused(*command)
    assert shell(*command, "--overwrite")[0] == 0
    assert [one.label for one in load_evaluation(out).routes] == ["base"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--alphas", "0,half"], "alphas: '0,half' are not alphas; write numbers such as 0,0.25"),
        (["--alphas", "0,1.5"], "alphas: alpha 1.5 lies outside [0, 1]"),
        (["--alphas", "0,1", "--alpha-curve"], "alphas: --alpha-curve names alphas, too"),
        (["--members-of", "loar"], "did you mean lora?"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_computed(
    trained: Shell, arguments: list[str], message: str
) -> None:
    assert message in trained.refused(*QUICK, "--data", "digits", *arguments)


def test_a_task_without_adapters_is_told_so(shell: Shell) -> None:
    assert "task" in shell.refused(*QUICK, "--data", "digits")


def test_many_shifts_are_shown_as_their_mean_unless_everything_is_asked_for(trained: Shell) -> None:
    shifts = [word for severity in "12345" for word in ("--shift", f"noise:{severity}")]
    command = [*QUICK, "lora", "base", "--data", "digits", *shifts, "--shift", "contrast:1"]
    found = trained.document(*command, "--json")
    accuracies = [one["accuracy"] for one in found["results"][1:7]]
    code, out, _ = trained(*command)
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("lora:1  digits, 6 shifts"))
    assert line.split()[5] == f"{np.mean(accuracies):.3f}"
    assert "agree on digits, 6 shifts" in out
    assert "digits, 6 shifts" not in trained(*command, "--full")[1]
