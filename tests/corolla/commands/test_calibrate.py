import json
from pathlib import Path

import pytest

from model_store.store import Store
from tests.corolla.shell import Shell

CASCADE = "cascade(lora, base; loss<=0.2)"
EXACT = "--device", "cpu", "--precision", "fp32"


@pytest.fixture
def calibrate(
    trained: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Shell:
    """Over a store with one adapter; logits are kept for all tests of this file."""
    monkeypatch.setenv("COROLLA_LOGITS", str(tmp_path_factory.getbasetemp() / "calibrated-logits"))
    return trained


def learn(calibrate: Shell, *arguments: str, holdout: str = "0.1") -> tuple[int, str, str]:
    given = ["--task", "digits", "--data", "digits", "--holdout", holdout]
    return calibrate("routes", "calibrate", *arguments, *given, *EXACT)


def test_a_cascade_is_learnt_named_and_stored_with_its_versions(calibrate: Shell) -> None:
    code, out, err = learn(calibrate, CASCADE, "--as", "quick", "--domain", "digits", "--json")
    assert code == 0, err
    document = json.loads(out)
    learnt, domain = document["judged"]
    assert (learnt["cross_validated"], domain["cross_validated"]) == (True, False)
    assert learnt["accuracy_loss"] <= 0.2
    assert 1 <= learnt["cost"] < 2
    assert sum(learnt["settled"]) == pytest.approx(1)
    assert sorted(document["asked"]) == ["base", "lora:1"]
    assert document["stored"] is True
    assert document["reference"] == {
        "state": "none",
        "why": "corolla routes reference quick --task digits",
    }

    route = Store.open(str(calibrate.folder / "store")).routes.get("digits", "quick")
    assert route.cascade is not None
    assert route.route == "cascade(lora:1, base; loss<=0.2)"
    assert [version.adapter for version in route.versions] == ["digits/lora:1", "digits/base"]
    assert route.temperature == route.cascade.stages[-1].temperature
    assert route.cascade.measured.cost == pytest.approx(learnt["cost"])
    assert route.cascade.measured.images == learnt["number"]


def test_a_named_cascade_is_learnt_again_for_another_loss_and_shown_as_a_table(calibrate: Shell) -> None:
    assert calibrate("routes", "put", "quick", CASCADE, "--task", "digits")[0] == 0
    code, out, err = learn(calibrate, "quick", "--loss", "0.3")
    assert code == 0, err
    assert "confidence to settle" in out
    assert "digits, cross-validated" in out
    assert "route digits/quick = cascade(lora:1, base; loss<=0.3) answers so from now on" in out
    store = Store.open(str(calibrate.folder / "store"))
    route = store.routes.get("digits", "quick")
    assert route.cascade is not None
    assert route.cascade.loss == 0.3
    assert learn(calibrate, "quick", "--loss", "0.3")[1] == out  # nothing is left to chance


def test_a_dry_run_stores_nothing_and_needs_no_name(calibrate: Shell) -> None:
    code, out, err = learn(calibrate, CASCADE, "--dry-run", "--score", "margin")
    assert code == 0, err
    assert "margin to settle" in out
    assert out.endswith("Nothing is stored.\n")
    assert Store.open(str(calibrate.folder / "store")).routes.names() == []


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (
            "lora",
            "route: lora is not a cascade; write 'cascade(lora, OTHER; loss<=0.002)' and name it with --as",
        ),
        ("lora, base", "is not a cascade; write 'cascade(lora, base; loss<=0.002)'"),
        ("cascade(lora; loss<=0.1)", "a cascade of one member has nobody to ask next"),
        (CASCADE, "as: the cascade has no name yet"),
        ("absent", "absent"),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_anything_is_computed(
    calibrate: Shell, route: str, message: str
) -> None:
    code, _, err = learn(calibrate, route)
    assert code == 2
    assert message in err


def test_too_few_images_are_refused(calibrate: Shell, tmp_path: Path) -> None:
    code, _, err = learn(calibrate, CASCADE, "--dry-run", holdout="0.01")
    assert code == 2
    assert "data: " in err
    assert "too few to learn a cascade" in err
