"""One evaluation of several routes on several sets: what is in the document, and from which images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from petl_vit.errors import InvalidInput
from tests.training.answered import said
from tests.training.measure.conftest import Resolving
from training.data.dataset import subset
from training.data.records import Dataset, Selection
from training.data.sources import load_dataset
from training.measure import evaluation
from training.measure.candidate import Candidate, seed_groups, trained_models
from training.measure.document import Evaluation, load_evaluation, save_evaluation
from training.measure.evaluation import evaluate
from training.measure.logit_store import LogitStore

SINGLES = ("base", "lora", "lora-1", "lora-2", "vpt_deep")
TEXTS = (*SINGLES, "0.5*lora", "lora, vpt_deep", "vote(lora, lora-1)")
ALPHAS = (0.0, 0.5, 1.0)
IMAGES = 120  # of which each half tells a temperature


@pytest.fixture(scope="module")
def here() -> Dataset:
    return subset(load_dataset("digits"), IMAGES, 7)


@pytest.fixture(scope="module")
def there() -> Dataset:
    """Digits without the class 9."""
    some = subset(load_dataset("digits"), 50, 8)
    kept = [i for i, label in enumerate(some.labels.tolist()) if label != 9]
    few = replace(some, name="x.zip::few/small", digest="f" * 64, labels=some.labels[kept])
    return replace(
        few,
        images=Selection(images=some.images, indices=kept),
        fingerprints=tuple(some.fingerprints[i] for i in kept),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logits")


@pytest.fixture(scope="module")
def measuring(resolving: Resolving, here: Dataset, there: Dataset, folder: Path) -> Callable[..., Evaluation]:
    def measure(*texts: str, alphas: tuple[float, ...] = ALPHAS) -> Evaluation:
        candidates = [
            Candidate(
                route=resolving(text), seeds_of="lora" if text.startswith("lora") and "," not in text else ""
            )
            for text in texts or TEXTS
        ]
        return evaluate(
            resolving.loader,
            candidates,
            [here, there],
            under=[("noise", 4)],
            alphas=alphas,
            store=LogitStore(folder),
            trained_on=lambda candidate, dataset: len(candidate.label),
        )

    return measure


@pytest.fixture(scope="module")
def found(measuring: Callable[..., Evaluation]) -> Evaluation:
    return measuring()


def test_sets_are_named_counted_and_the_first_is_not_shifted(found: Evaluation, there: Dataset) -> None:
    assert [(one.name, one.shift, one.shifted) for one in found.sets] == [
        ("digits", None, False),
        ("digits noise:4", "noise:4", True),
        ("small", None, True),
        ("small noise:4", "noise:4", True),
    ]
    assert found.reference.images == IMAGES
    assert sum(found.sets[2].class_counts) == len(there)
    assert found.sets[2].class_counts[9] == 0


def test_every_route_is_described(found: Evaluation, resolving: Resolving) -> None:
    routes = {one.label: one for one in found.routes}
    assert [routes[label].kind for label in ("base", "lora:1", "0.5*lora:1", "lora:1, vpt_deep:1")] == [
        "base",
        "adapter",
        "alpha",
        "ensemble",
    ]
    lora = resolving("lora").members[0].terms[0].manifest
    assert lora is not None
    assert routes["lora:1"].parameters == lora.metrics["parameters"]
    assert routes["lora:1"].setting == "rank=8"
    assert (routes["lora-1:1"].seed, routes["lora:1"].head_init) == (1, "probe")
    both = routes["lora:1, vpt_deep:1"]
    assert both.parameters == routes["lora:1"].parameters + routes["vpt_deep:1"].parameters
    assert (both.cost, both.members) == (2, ("lora:1", "vpt_deep:1"))
    assert (routes["base"].method, routes["base"].parameters) == ("linear", 0)


def test_each_route_has_a_result_on_every_set(found: Evaluation, resolving: Resolving, here: Dataset) -> None:
    assert len(found.results) == len(TEXTS) * 4
    for text in TEXTS:
        alone = said(resolving.loader, resolving(text), here)
        result = found.result(str(resolving(text)), "digits")
        assert result.accuracy == pytest.approx(alone.accuracy, abs=1 / IMAGES)
        assert result.confidence == pytest.approx(alone.honesty.confidence.mean(), abs=1e-3)
        assert result.low < result.accuracy < result.high
        assert sum(sum(row) for row in result.confusion or ()) == IMAGES
        assert sum(one.count for one in result.confidence_histogram) == IMAGES
        assert result.trained_on == len(str(resolving(text)))
    small = found.result("lora:1", "small")
    assert small.per_class[9].recall is None
    assert small.macro_f1 == pytest.approx(np.mean([one.f1 for one in small.per_class[:9]]))


def test_a_fitted_temperature_is_scored_on_the_other_half(found: Evaluation) -> None:
    result = found.result("lora:1", "digits")
    assert result.calibrated is not None
    assert result.raw.nll == result.nll
    assert result.calibrated.nll < result.raw.nll  # one epoch leaves it far too modest or too sure
    elsewhere = found.result("lora:1", "small").calibrated
    assert elsewhere is not None
    assert elsewhere.temperature == result.calibrated.temperature
    assert found.result("vote(lora:1, lora-1:1)", "digits").calibrated is None


def test_pairs_are_of_single_models_and_comparisons_of_all(found: Evaluation) -> None:
    singles, routes = len(SINGLES) + 1, len(TEXTS)
    assert len(found.pairs) == 4 * singles * (singles - 1) // 2
    assert len(found.comparisons) == 4 * routes * (routes - 1) // 2
    one = next(c for c in found.comparisons if (c.set, c.a, c.b) == ("small", "base", "lora:1"))
    a, b = found.result("base", "small"), found.result("lora:1", "small")
    assert one.difference == pytest.approx(a.accuracy - b.accuracy)


def test_an_ensemble_has_the_seeds_of_a_method_as_its_control(
    found: Evaluation, resolving: Resolving, here: Dataset
) -> None:
    both = next(one for one in found.ensembles if (one.set, one.route) == ("digits", "lora:1, vpt_deep:1"))
    assert both.mean == found.result("lora:1, vpt_deep:1", "digits").accuracy
    (control,) = both.controls
    assert (control.method, control.size, control.seeds) == ("lora", 2, ("lora:1", "lora-1:1", "lora-2:1"))
    pairs = [
        said(resolving.loader, resolving(text), here).accuracy
        for text in ("lora, lora-1", "lora, lora-2", "lora-1, lora-2")
    ]
    assert control.mean == pytest.approx(np.mean(pairs), abs=1 / IMAGES)
    vote = next(one for one in found.ensembles if one.route.startswith("vote") and one.set == "digits")
    assert vote.vote == found.result(vote.route, "digits").accuracy


def test_every_adapter_has_a_curve_from_the_base_to_itself(found: Evaluation) -> None:
    assert [one.adapter for one in found.curves] == ["lora:1", "lora-1:1", "lora-2:1", "vpt_deep:1"]
    for one in found.curves:
        for on in found.sets:
            start, _, end = one.accuracy[on.name]
            assert start == found.result("base", on.name).accuracy
            assert end == found.result(one.adapter, on.name).accuracy
        assert one.adapter not in one.lines["small"].models
        robust = found.result(one.adapter, "small").effective_robustness
        assert one.effective_robustness["small"][-1] == pytest.approx(robust)
    half = found.curves[0].accuracy["small"][1]
    assert half == found.result("0.5*lora:1", "small").accuracy
    assert found.result("lora:1", "digits").effective_robustness is None


def test_the_route_is_chosen_on_the_first_set(found: Evaluation) -> None:
    by_accuracy, by_nll = found.choices
    assert (by_accuracy.rule, by_nll.rule) == ("accuracy", "nll")
    best = max(found.result(one.label, "digits").accuracy for one in found.routes)
    assert found.result(str(by_accuracy.chosen), "digits").accuracy == best
    for on in ("small", "digits noise:4"):
        oracle = max(found.result(one.label, on).accuracy for one in found.routes)
        assert by_accuracy.cost[on] == pytest.approx(oracle - by_accuracy.accuracy[on])


def test_another_evaluation_computes_only_what_is_new(
    found: Evaluation, measuring: Callable[..., Evaluation]
) -> None:
    models = 5 + 4  # singles and each adapter at 0.5
    assert (found.logits.computed, found.logits.reused) == (4 * models, 0)
    again = measuring("lora", "lora, vpt_deep", "0.25*lora", alphas=())
    assert (again.logits.computed, again.logits.reused) == (4, 8)
    assert again.curves == ()
    first, second = (
        next(one for one in document.results if (one.route, one.set) == ("lora:1", "small"))
        for document in (found, again)
    )
    changed = {"effective_robustness", "trained_on"}  # as measured from other models
    assert first.model_dump(exclude=changed) == second.model_dump(exclude=changed)


def test_shifts_that_do_not_fit_in_memory_are_measured_in_turns(
    found: Evaluation, measuring: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "LOGIT_BYTES", 1)
    turns = measuring("base", "lora", "vpt_deep", alphas=())
    assert turns.sets == found.sets
    kept = {(one.set, one.a, one.b): one for one in found.pairs}
    assert len(turns.pairs) == 4 * 3
    assert all(kept[one.set, one.a, one.b] == one for one in turns.pairs)


def test_an_adapter_under_several_names_is_one_seed_and_one_model(resolving: Resolving) -> None:
    lora, other = resolving("lora"), resolving("lora-1")
    several = [
        Candidate(route=lora, seeds_of="x"),
        Candidate(route=lora, seeds_of="x", name="live"),
        Candidate(route=other, seeds_of="x"),
        Candidate(route=resolving("base")),
        Candidate(route=resolving("0.5*lora")),
        Candidate(route=resolving("vpt_deep"), seeds_of="y"),
    ]
    assert [one.label for one in trained_models(several)] == ["lora:1", "lora-1:1", "base", "vpt_deep:1"]
    assert [[one.label for one in group] for group in seed_groups(several)] == [["lora:1", "lora-1:1"]]


def test_a_route_that_is_there_twice_is_measured_once(measuring: Callable[..., Evaluation]) -> None:
    assert [one.label for one in measuring("base", "base", alphas=()).routes] == ["base"]


def test_two_routes_of_one_name_are_refused(resolving: Resolving, here: Dataset) -> None:
    candidates = [Candidate(route=resolving(text), name="live") for text in ("base", "lora")]
    with pytest.raises(InvalidInput, match="route: two different routes are called live"):
        evaluate(resolving.loader, candidates, [here])


def test_a_set_with_other_classes_and_no_route_are_refused(resolving: Resolving, here: Dataset) -> None:
    other = replace(here, classes=("ten", *here.classes[1:]))
    base = Candidate(route=resolving("base"))
    with pytest.raises(InvalidInput, match=r"classes: .* classes that the task does not have: .*ten"):
        evaluate(resolving.loader, [base], [here, other])
    with pytest.raises(InvalidInput, match="route: there is no route to measure"):
        evaluate(resolving.loader, [], [here])


def test_a_document_is_read_as_it_was_written(found: Evaluation, tmp_path: Path) -> None:
    save_evaluation(found, tmp_path / "eval.json")
    assert load_evaluation(tmp_path / "eval.json") == found
