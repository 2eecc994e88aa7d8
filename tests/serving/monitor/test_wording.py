"""Numbers and states in words."""

import pytest

from serving.monitor import wording
from serving.monitor.estimates import METHODS
from serving.monitor.indicators import INDICATORS
from serving.monitor.status import DomainStatus, RouteStatus
from tests.serving.monitor.statuses import NOW, REFERENCE, alarming, status, watched


def test_every_method_and_every_indicator_has_a_name_for_people() -> None:
    assert set(wording.METHODS) == set(METHODS)
    assert set(wording.INDICATORS) == set(INDICATORS)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (3600, "the last hour"),
        (7200, "the last 2 hours"),
        (5400, "the last 90 minutes"),
        (86_400, "the last day"),
        (60, "the last minute"),
        (0.5, "the last 0.5 seconds"),
    ],
)
def test_a_window_is_said_in_the_largest_unit_that_makes_it_whole(seconds: float, said: str) -> None:
    assert wording.last(seconds) == said


@pytest.mark.parametrize(
    ("log10", "said"), [(0.0, "1"), (-2.1, "0.0079"), (1.9, "79"), (4.34, "10^4.3"), (300.0, "10^300.0")]
)
def test_evidence_is_a_number_while_it_is_small(log10: float, said: str) -> None:
    assert wording.power(log10) == said


def test_a_time_of_another_day_has_its_date() -> None:
    assert wording.clock(NOW - 60, NOW) == "07:59 UTC"
    assert wording.clock(NOW - 86_400, NOW) == "2027-01-14 08:00 UTC"


def test_a_count_of_one_is_in_the_singular() -> None:
    assert [wording.count(number, "image") for number in (0, 1, 1234)] == [
        "0 images",
        "1 image",
        "1,234 images",
    ]


@pytest.mark.parametrize(
    ("domain", "reference", "said"),
    [
        (alarming(), REFERENCE, "alarm: shift"),
        (watched(), REFERENCE, "no alarm"),
        (watched(), None, "no reference"),
        (watched(), REFERENCE.model_copy(update={"stale": True}), "reference not usable"),
        (watched(images_in_window=0), REFERENCE, "no images now"),
        (DomainStatus(domain="photo", images=0, images_in_window=0), REFERENCE, "no images yet"),
    ],
)
def test_where_a_domain_stands(domain: DomainStatus, reference: object, said: str) -> None:
    route = RouteStatus.model_validate({"route": "birds/best", "reference": reference, "domains": [domain]})
    assert wording.state(route, domain)[0] == said


def test_nothing_is_called_well_while_nothing_is_compared() -> None:
    assert wording.verdict(status()) == ("No images yet.", "muted")
    assert wording.verdict(status(RouteStatus(route="birds/best", domains=(watched(),))))[1] == "muted"
    calm = RouteStatus(route="birds/best", reference=REFERENCE, domains=(watched(),))
    assert wording.verdict(status(calm)) == ("No alarm on 1 route with a reference.", "good")


@pytest.mark.parametrize("route", ["adhoc", "other"])
def test_only_a_named_route_is_told_to_measure_a_reference(route: str) -> None:
    assert wording.reference_command(RouteStatus(route=route)) is None
    assert "named route" in wording.unreferenced(RouteStatus(route=route))


def test_names_in_a_command_are_quoted_for_the_shell() -> None:
    said = wording.reference_command(RouteStatus(route="birds/a; rm -rf ~"))
    assert said == "corolla routes reference 'a; rm -rf ~' --task birds"
