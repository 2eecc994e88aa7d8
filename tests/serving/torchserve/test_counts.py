"""Our counts as TorchServe's."""

from serving.torchserve.counts import Gains, counters
from tests.serving.world import new_metrics


def test_counts_are_told_once() -> None:
    metrics = new_metrics()
    metrics.add_route("shapes/duo", ["lora", "ssf"])
    gains = Gains(metrics.registry)
    first = gains.read()
    metrics.prediction(
        route="shapes/duo",
        domain="unset",
        predicted=0,
        votes=(0, 1),
        confidence=0.75,
        entropy=0.5,
        mutual_information=0.1,
        agreement=0.5,
    )

    told = {(name, values): value for name, values, value in gains.read()}

    assert {value for *_, value in first} == {0}
    labels = ("shapes/duo", "unset")
    assert told["corolla_prediction_confidence_ratio_sum", labels] == 0.75
    assert told["corolla_ensemble_agreement_ratio_sum", labels] == 0.5
    assert told["corolla_ensemble_agreement_ratio_count", labels] == 1
    assert told["corolla_prediction_bin_total", (*labels, "7")] == 1
    # TorchServe's lines separate with a colon.
    assert told["corolla_ensemble_pair_comparisons_total", (*labels, "lora~ssf")] == 1
    assert gains.read() == []


def test_every_count_is_one_that_torchserve_was_told_of() -> None:
    names = [name for name, _ in counters()]
    assert len(names) == len(set(names))
    assert {name for name, *_ in Gains(new_metrics().registry).read()} <= set(names)
