"""`corolla routes reference`, and what is shown of references."""

import pytest

from model_store.store import Store
from tests.corolla.shell import Shell

ON = ["--device", "cpu", "--precision", "fp32"]


@pytest.fixture
def routed(trained: Shell) -> Shell:
    """A route of an ensemble, and one of the adapter alone."""
    for name, text in (("both", "lora, base"), ("live", "lora")):
        assert trained("routes", "put", name, text)[0] == 0
    return trained


def measured(shell: Shell, *arguments: str) -> list[dict[str, object]]:
    logits = ["--logits", str(shell.folder / "logits")]
    found: list[dict[str, object]] = shell.document("routes", "reference", *arguments, *logits, *ON, "--json")
    return found


def test_a_named_route_is_measured_on_what_its_adapter_held_out(routed: Shell) -> None:
    assert routed.document("routes", "show", "both", "--json")["reference"]["state"] == "none"
    (found,) = measured(routed, "both")
    manifest = routed.document("adapters", "show", "lora", "--json")
    assert found["data"]["digest"] == manifest["training"]["heldout_digest"]  # type: ignore[index]
    assert found["images"] == 359
    assert [member["label"] for member in found["route"]["members"]] == ["lora", "base"]  # type: ignore[index]
    assert found["member_accuracies"][0] == pytest.approx(manifest["metrics"]["accuracy"])  # type: ignore[index]
    shown = routed.document("routes", "show", "both", "--json")["reference"]
    assert (shown["state"], shown["accuracy"], shown["images"]) == ("current", found["accuracy"], 359)


def test_the_base_head_overrides_as_training_counted_and_never_itself(routed: Shell) -> None:
    store = Store.open(str(routed.folder / "store"))
    (of_training,) = [r for r in store.references.list() if r.route.name.startswith("lora")]
    (live,) = measured(routed, "live")
    assert live["base_overrides"] == of_training.base_overrides
    assert live["unanimous"] == live["images"]
    assert routed("routes", "put", "bare", "base")[0] == 0
    (bare,) = measured(routed, "bare", "--data", "digits")
    assert bare["base_overrides"] == 0


def test_an_adapter_and_its_route_have_the_reference_of_training(routed: Shell) -> None:
    adapter = routed.document("adapters", "show", "lora", "--json")
    shown = routed.document("routes", "show", "live", "--json")["reference"]
    assert adapter["reference"] == shown
    assert shown["state"] == "current"
    assert shown["accuracy"] == adapter["metrics"]["accuracy"]


def test_a_reference_of_another_temperature_is_shown_as_stale(routed: Shell) -> None:
    assert routed("routes", "put", "live", "lora", "--temperature", "3")[0] == 0
    shown = routed.document("routes", "show", "live", "--json")["reference"]
    assert shown["state"] == "stale"
    assert shown["why"].startswith("its temperature was ")
    assert shown["why"].endswith("; corolla routes reference live --task digits")
    words = " ".join(routed("routes", "show", "live")[1].split())
    assert "stale: accuracy " in words
    assert "on 359 images of digits, in fp32, 20" in words
    assert shown["why"] in words


def test_all_measures_what_has_no_current_reference_and_exits_with_1_where_one_cannot_be(
    routed: Shell,
) -> None:
    assert routed("routes", "put", "bare", "base")[0] == 0
    every = ["routes", "reference", "--all", "--logits", str(routed.folder / "logits"), *ON]
    code, out, err = routed(*every)
    assert code == 1
    assert [line.split(" = ")[0] for line in out.splitlines()] == [
        "route digits/both",
        "measured before and current: digits/live; --again measures them again",
        "not measured: digits/bare",
    ]
    assert "route digits/bare is not measured: data: the route has no adapter; name labelled" in err
    store = Store.open(str(routed.folder / "store"))
    assert [r.route.name for r in store.references.list()].count("both") == 1
    assert routed("routes", "delete", "bare")[0] == 0
    code, out, _ = routed(*every)
    assert (code, out) == (
        0,
        "measured before and current: digits/both, digits/live; --again measures them again\n",
    )
    code, out, _ = routed(*every, "--again")
    assert code == 0
    assert [line.split(" = ")[0] for line in out.splitlines()] == ["route digits/both", "route digits/live"]


def test_a_set_of_its_own_is_taken_whole_and_a_small_one_gives_no_estimate(routed: Shell) -> None:
    code, out, _ = routed(
        "routes", "reference", "both", "--data", "digits", "--holdout", "0.02", *ON,
        "--logits", str(routed.folder / "logits"),
    )  # fmt: skip
    assert code == 0
    assert "no estimate should be made of it: " in out
    assert "images are fewer than 50" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--all: name one route, or give --all"),
        (["live", "--all"], "--all: name one route, or give --all"),
        (["liev"], "did you mean live?"),
        (["live", "--data", "nowhere"], "--data: "),
    ],
)
def test_a_wrong_measurement_is_refused_in_one_sentence(
    routed: Shell, arguments: list[str], says: str
) -> None:
    assert says in routed.refused("routes", "reference", *arguments)
