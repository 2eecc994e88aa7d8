"""Domains: what is counted as `other`, what is said of it, and domains that are added to a running server."""

import pytest
from prometheus_client import CollectorRegistry

from petl_vit.errors import InvalidInput
from serving.metrics.events import Metrics
from serving.metrics.label_values import MAX_DOMAINS, Domains


@pytest.mark.parametrize("text", ["", "studio", "street", "other", "unset"])
def test_a_domain_that_is_counted_as_itself_has_no_note(text: str) -> None:
    assert Domains(["studio", "street"]).note(text) == ""


@pytest.mark.parametrize(
    ("listed", "text", "said"),
    [
        (["studio", "street"], "stret", "no domain 'stret' and counts it as `other`; did you mean street?"),
        (["studio", "street"], "STREET", "no domain 'STREET' and counts it as `other`; did you mean street?"),
        (["studio", "street"], "sketch-9", "there is studio, street; add one with `corolla domains add`"),
        ([], "studio", "it has none; add one with `corolla domains add`"),
    ],
)
def test_a_domain_that_is_counted_as_other_has_near_matches(listed: list[str], text: str, said: str) -> None:
    assert Domains(listed).note(text).endswith(said)


def test_a_note_is_short_whatever_a_client_sends() -> None:
    assert len(Domains(["studio"]).note("x\n" * 100_000)) < 300


def test_an_added_domain_has_all_its_series_at_zero_and_is_counted() -> None:
    metrics = Metrics(CollectorRegistry(), Domains(["studio"]))
    metrics.add_route("both", ["lora", "ssf"])
    before = series(metrics)
    assert metrics.add_domain("street")
    assert not metrics.add_domain("street"), "it is there already"

    added = {(name, values.replace("street", "studio")) for name, values in series(metrics) - before}
    assert added == {(name, values) for name, values in before if "studio" in values}
    metrics.prediction(
        route="both", domain="street", predicted=1, votes=[1, 0], confidence=0.9, entropy=0.1,
        mutual_information=0.1, agreement=0.5,
    )  # fmt: skip
    member = {"route": "both", "domain": "street", "member": "lora"}
    assert metrics.registry.get_sample_value("corolla_member_predictions_total", member) == 1


def series(metrics: Metrics) -> set[tuple[str, str]]:
    """The names and the labels of all samples."""
    return {(s.name, str(s.labels)) for family in metrics.registry.collect() for s in family.samples}


def test_domains_are_bounded_when_they_are_added_too() -> None:
    metrics = Metrics(CollectorRegistry(), Domains([f"shop-{n}" for n in range(MAX_DOMAINS - 1)]))
    assert metrics.add_domain("last")
    with pytest.raises(InvalidInput, match=r"^domain: there are 16 domains, the most that"):
        metrics.add_domain("one-more")
    assert not metrics.add_domain("last")
    for reserved in ("other", "unset"):
        assert not metrics.add_domain(reserved), "it is there always"
    for bad in ("", "Street", "a b", "x" * 64):
        with pytest.raises(InvalidInput, match="is not a name"):
            metrics.add_domain(bad)
    assert len(metrics.domains.listed) == MAX_DOMAINS
