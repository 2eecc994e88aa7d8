"""Alarms from counters, look by look; that their promise holds is tests/petl_vit/test_evidence.py."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import JsonValue

from petl_vit.errors import Corrupt
from serving.monitor.alarm_settings import AlarmSettings, SettingsByRoute
from serving.monitor.alarms import SequentialAlarms, domain_share
from serving.monitor.indicators import KINDS
from serving.monitor.look import Judgement, Look, ReferenceValues
from serving.monitor.samples import Counts

ROUTE = "digits/best"
REFERENCE = ReferenceValues(
    digest="a" * 64,
    data="b" * 64,
    images=10_000,
    accuracy=0.95,
    rates={"disagreement": 0.04, "low_score": 0.05, "unsure": 0.06, "override": 0.1, "error": 0.05},
    pair_agreements={"a:b": 0.96, "a:c": 0.96, "b:c": 0.96},
)
USUAL = {name: rate for name, rate in REFERENCE.rates.items() if name != "error"}


def counts(
    images: int,
    rates: Mapping[str, float] = USUAL,
    *,
    domain: str = "photo",
    labels: float = 0,
    wrong: float = 0,
    weight: float = 100,
    route: str = ROUTE,
) -> Counts:
    """What servers counted of some images; labels are requested, each for so many images."""
    found = Counts()

    def add(name: str, amount: float, **labels: str) -> None:
        found.add(name, tuple(sorted({"route": route, "domain": domain, **labels}.items())), amount)

    add("corolla_predictions_total", images)
    for pair in REFERENCE.pair_agreements:
        add("corolla_ensemble_pair_comparisons_total", images, pair=pair)
        add("corolla_ensemble_pair_agreements_total", images * (1 - rates["disagreement"]), pair=pair)
    for method, indicator in (("atc_mc", "low_score"), ("confidence", "unsure")):
        add("corolla_estimated_predictions_total", images, method=method)
        add("corolla_estimated_correct_total", images * (1 - rates[indicator]), method=method)
    add("corolla_frozen_predictions_total", images // 50)
    add("corolla_base_overrides_total", images // 50 * rates["override"])
    add("corolla_feedback_total", labels - wrong, outcome="correct")
    add("corolla_feedback_total", wrong, outcome="incorrect")
    for moment, amount in {"w": labels, "w2": labels * weight, "wrong": wrong}.items():
        add("corolla_feedback_moment_total", amount * weight, moment=moment)
    return found


def shifted(points: float) -> dict[str, float]:
    return {name: rate + points / 100 for name, rate in USUAL.items()}


def look(at: float, *increases: Counts, references: Mapping[str, ReferenceValues] | None = None) -> Look:
    all_counts = Counts()
    for one in increases:
        all_counts.merge(one)
    return Look(
        at=at, increase=all_counts, references={ROUTE: REFERENCE} if references is None else references
    )


def run(alarms: SequentialAlarms, looks: Iterable[Look], domain: str = "photo") -> Judgement:
    for one in looks:
        found = alarms.step(one)[ROUTE, domain]
    return found


def quiet(many: int, *, start: float = 0.0, images: int = 500) -> list[Look]:
    return [look(start + number, counts(images)) for number in range(many)]


def test_traffic_like_the_reference_raises_no_alarm() -> None:
    judgement = run(SequentialAlarms(), quiet(200))

    assert judgement.alarms == ()
    assert judgement.threshold == pytest.approx(-math.log10(0.01 / 2 / 2))
    assert judgement.evidence.keys() == {*USUAL, "shift", "error"}
    assert max(judgement.evidence.values()) <= 0


def test_a_shift_raises_an_alarm_that_names_what_says_most() -> None:
    alarms = SequentialAlarms()
    run(alarms, quiet(20))
    rates = USUAL | {"low_score": 0.25}

    (alarm,) = run(alarms, [look(100 + n, counts(100, rates)) for n in range(5)]).alarms

    assert (alarm.route, alarm.domain, alarm.kind, alarm.indicator) == (ROUTE, "photo", "shift", "low_score")
    assert alarm.e_value >= alarm.threshold > 2
    assert 100 <= alarm.first_seen <= 104
    assert 20 * 500 < alarm.images <= 20 * 500 + 5 * 100


def test_every_drop_of_ten_points_raises_an_alarm_within_1000_images() -> None:
    """After 100,000 images of quiet, by any one of the indicators alone that every image has."""
    for name in ("disagreement", "low_score", "unsure"):
        alarms = SequentialAlarms()
        run(alarms, quiet(200))
        rates = USUAL | {name: USUAL[name] + 0.10}
        found = [run(alarms, [look(1000 + n, counts(100, rates))]).alarms for n in range(10)]
        assert found[-1], name


def test_an_alarm_ends_when_traffic_is_again_like_the_reference() -> None:
    alarms = SequentialAlarms()
    assert run(alarms, [look(n, counts(200, shifted(20))) for n in range(50)]).alarms

    still = [bool(run(alarms, [look(100 + n, counts(200))]).alarms) for n in range(50)]

    assert still[0]
    assert not still[-1]
    assert run(alarms, quiet(20, start=200)).alarms == ()
    assert run(alarms, [look(300 + n, counts(200, shifted(20))) for n in range(5)]).alarms, (
        "and is raised again"
    )


def test_an_alarm_ends_after_a_day_without_an_image() -> None:
    alarms = SequentialAlarms()
    assert run(alarms, [look(0, counts(200, shifted(30)))]).alarms
    days = [run(alarms, [look(hour * 3600, counts(0))]) for hour in range(1, 25)]
    assert [bool(one.alarms) for one in days] == [True] * 23 + [False]
    assert all(value <= 0 for value in days[-1].evidence.values()), "it begins anew"
    assert run(alarms, [look(90_000, counts(200, shifted(30)))]).alarms, "and is raised again"


def test_an_alarm_stays_as_it_was_raised() -> None:
    alarms = SequentialAlarms()
    (first,) = run(alarms, [look(0, counts(200, shifted(30)))]).alarms
    (later,) = run(alarms, [look(1, counts(2000, shifted(30)))]).alarms
    assert later == first


def test_labels_raise_an_alarm_of_accuracy_alone() -> None:
    alarms = SequentialAlarms()
    run(alarms, [look(n, counts(500, labels=20, wrong=1)) for n in range(20)])

    (alarm,) = run(alarms, [look(100 + n, counts(500, labels=20, wrong=6)) for n in range(10)]).alarms

    assert (alarm.kind, alarm.indicator) == ("accuracy", "error")
    assert alarm.images <= 20 * 30


def test_labels_that_nobody_requested_raise_none_unless_all_are_to_count() -> None:
    """Whoever labels what they doubt sends many wrong answers."""
    chosen = counts(0)
    for outcome, amount in (("correct", 50.0), ("incorrect", 50.0)):
        labels = (("domain", "photo"), ("outcome", outcome), ("route", ROUTE))
        chosen.add("corolla_feedback_total", labels, amount)
    looks = [look(n, chosen) for n in range(10)]
    assert run(SequentialAlarms(), looks).alarms == ()
    (alarm,) = run(SequentialAlarms(SettingsByRoute(default=AlarmSettings(labels="all"))), looks).alarms
    assert (alarm.kind, alarm.images) == ("accuracy", 100)


def test_disputed_images_are_no_more_evidence_for_being_labelled_more_often() -> None:
    """Half of the images are disputed, four times as often wrong, and requested five times as often."""
    sampled = counts(0, labels=20, wrong=0.4, weight=100)
    disputed = counts(0, labels=100, wrong=8, weight=20)
    assert run(SequentialAlarms(), [look(n, sampled, disputed) for n in range(50)]).alarms == ()


def test_labels_of_servers_that_request_fewer_than_was_set_are_not_counted_and_that_is_said() -> None:
    looks = [look(n, counts(0, labels=20, wrong=10, weight=1000)) for n in range(5)]
    judgement = run(SequentialAlarms(), looks)
    assert judgement.alarms == ()
    assert judgement.evidence["error"] <= 0
    assert "label-share is below 0.01; set label_share" in judgement.problem
    honest = SettingsByRoute(default=AlarmSettings(label_share=0.001))
    found = run(SequentialAlarms(honest), looks)
    assert found.alarms
    assert found.problem == ""


def test_accuracy_within_its_margin_raises_none() -> None:
    looks = [look(n, counts(0, labels=1000, wrong=70)) for n in range(300)]
    assert run(SequentialAlarms(), looks).alarms == ()
    strict = SettingsByRoute(default=AlarmSettings(accuracy_margin=0))
    assert run(SequentialAlarms(strict), looks).alarms


def test_a_small_reference_needs_more_images() -> None:
    needed = []
    for images in (500, 50_000):
        alarms, found = SequentialAlarms(), 0
        reference = {ROUTE: replace(REFERENCE, images=images)}
        while not run(alarms, [look(found, counts(50, shifted(10)), references=reference)]).alarms:
            found += 50
        needed.append(found)
    assert needed[1] < needed[0] < 2000


def test_a_rate_that_is_not_one_is_left_out() -> None:
    odd = replace(REFERENCE, rates={"unsure": math.nan, "low_score": 1.2, "override": -0.1, "error": 0.1})
    judgement = run(SequentialAlarms(), [look(0, counts(10), references={ROUTE: odd})])
    assert judgement.evidence.keys() == {"error"}


def test_shares_of_domains_add_up_to_one_however_many_come() -> None:
    assert domain_share(0, 1) == 0.5
    batches, known, total = (4, 1, 1, 3, 1000, 100_000), 0, 0.0
    for new in batches:
        total, known = total + new * domain_share(known, new), known + new
    assert total == pytest.approx(1, abs=1e-4)
    assert total <= 1


def test_domains_that_appear_at_once_share_alike_and_later_ones_share_what_is_left() -> None:
    alarms = SequentialAlarms()
    first = alarms.step(look(0, *(counts(10, domain=name) for name in "ab")))
    later = alarms.step(look(1, *(counts(10, domain=name) for name in "abc")))
    thresholds = {domain: later[ROUTE, domain].threshold for domain in "abc"}
    assert thresholds["a"] == thresholds["b"] == first[ROUTE, "a"].threshold
    assert thresholds["a"] == pytest.approx(-math.log10(0.01 / 2 / 3))
    assert thresholds["c"] == pytest.approx(-math.log10(0.01 / 2 / 12))


def test_one_domain_does_not_raise_the_alarm_of_another() -> None:
    alarms = SequentialAlarms()
    for n in range(20):
        found = alarms.step(look(n, counts(100, shifted(20), domain="sketch"), counts(500)))
    assert found[ROUTE, "sketch"].alarms
    assert not found[ROUTE, "photo"].alarms


def test_a_domain_that_is_harder_than_the_reference_raises_one_though_all_together_are_like_it() -> None:
    """What docs/alarms.md says of domains: the promise is for those that are each like the reference."""
    easy, hard = ({name: rate * by for name, rate in USUAL.items()} for by in (0.4, 1.6))
    alarms = SequentialAlarms()
    for n in range(200):
        found = alarms.step(look(n, counts(500, easy, domain="easy"), counts(500, hard, domain="hard")))
    assert found[ROUTE, "hard"].alarms
    assert not found[ROUTE, "easy"].alarms


def test_a_block_thins_the_counts() -> None:
    dense, thinned = (
        run(
            SequentialAlarms(SettingsByRoute(routes={ROUTE: AlarmSettings(block=block)})),
            [look(n, counts(20, shifted(15))) for n in range(10)],
        ).evidence["shift"]
        for block in (1, 20)
    )
    assert thinned < dense / 5


def test_state_is_a_function_of_the_looks_also_across_restarts() -> None:
    random = np.random.default_rng(0)
    looks = [look(n, counts(int(random.integers(0, 300)), shifted(random.uniform(0, 4)))) for n in range(60)]
    whole = SequentialAlarms()
    expected = run(whole, looks)
    state: JsonValue = SequentialAlarms().state()
    for one in looks:
        again = SequentialAlarms()
        again.restore(json.loads(json.dumps(state)))
        found = again.step(one)
        state = again.state()
    assert found[ROUTE, "photo"] == expected
    assert state == whole.state()


def test_replicas_count_as_one() -> None:
    one, two = SequentialAlarms(), SequentialAlarms()
    whole = run(one, [look(n, counts(200, shifted(3))) for n in range(10)])
    halves = run(two, [look(n, counts(100, shifted(3)), counts(100, shifted(3))) for n in range(10)])
    assert halves.evidence == pytest.approx(whole.evidence)


def test_another_reference_begins_anew_without_what_came_before_it() -> None:
    """Some of what was counted since the last look may be from the adapters that answered before."""
    alarms = SequentialAlarms()
    assert run(alarms, [look(n, counts(200, shifted(20))) for n in range(10)]).alarms
    new = {ROUTE: replace(REFERENCE, digest="c" * 64)}

    assert (ROUTE, "photo") not in alarms.step(look(20, counts(5000, shifted(20)), references=new))
    assert run(alarms, [look(21, counts(500), references=new)]).alarms == ()
    assert run(alarms, [look(22 + n, counts(500, shifted(20)), references=new) for n in range(5)]).alarms


def test_without_a_reference_evidence_waits_and_its_alarm_stays_for_an_hour() -> None:
    alarms = SequentialAlarms()
    before = run(alarms, [look(n, counts(200, shifted(20))) for n in range(10)])

    waiting = run(alarms, [look(20, counts(5000), references={})])

    assert waiting == before
    assert (ROUTE, "photo") not in alarms.step(look(10 + 3600, references={}))
    assert run(alarms, [look(5000, counts(1))]).alarms, "it goes on where it stopped"


def test_what_another_version_answered_before_a_roll_back_is_not_counted() -> None:
    """Between the last look at which the reference was stale and the first at which it is not."""
    alarms = SequentialAlarms()
    before = run(alarms, quiet(20))
    alarms.step(look(100, counts(500, shifted(20)), references={}))

    assert run(alarms, [look(130, counts(500, shifted(20)))]).evidence == before.evidence
    assert run(alarms, [look(160, counts(500, shifted(20)))]).alarms, "it counts again"


def test_a_route_that_nobody_serves_is_forgotten_after_a_week() -> None:
    alarms = SequentialAlarms()
    run(alarms, quiet(3))
    alarms.step(look(8 * 86400, references={}))
    assert alarms.state() == SequentialAlarms().state()


def test_counters_of_one_image_that_rise_in_two_scrapes_are_counted_together() -> None:
    """Three sure answers are there before the images that they are of."""
    early, late, both = counts(0, labels=1), counts(0), counts(0)
    labels = (("domain", "photo"), ("method", "confidence"), ("route", ROUTE))
    early.add("corolla_estimated_correct_total", labels, 3.0)
    late.add("corolla_estimated_predictions_total", labels, 10.0)
    late.add("corolla_estimated_correct_total", labels, 4.0)
    both.merge(early)
    both.merge(late)
    torn = run(SequentialAlarms(), [look(0, early), look(1, late)])
    assert torn.evidence == run(SequentialAlarms(), [look(1, both)]).evidence


def test_looks_without_traffic_change_nothing() -> None:
    alarms = SequentialAlarms()
    run(alarms, quiet(5))
    state = alarms.state()
    for n in range(100):
        alarms.step(look(10 + n, counts(0)))
    assert _without_times(alarms.state()) == _without_times(state)


@pytest.mark.parametrize("state", [None, 3, {"version": 99}, {"routes": {"a": {}}}, {"routes": [], "odd": 1}])
def test_a_state_that_is_not_one_is_refused(state: JsonValue) -> None:
    with pytest.raises(Corrupt, match="alarms"):
        SequentialAlarms().restore(state)


@pytest.mark.parametrize(
    "damage",
    [
        {"wealth": [[0.0, 0.0]]},
        {"wealth": [[0.0], [0.0, 0.0]]},
        {"candidates": [{"rate": 7.0, "log_e": 0.0}]},
        {"images": -1.0},
    ],
)
def test_a_state_whose_evidence_is_damaged_is_refused(damage: Mapping[str, JsonValue]) -> None:
    alarms = SequentialAlarms()
    run(alarms, quiet(2))
    state: Any = alarms.state()
    state["routes"][ROUTE]["domains"]["photo"]["watches"]["shift"]["evidence"]["unsure"] |= damage

    with pytest.raises(Corrupt, match="damaged"):
        SequentialAlarms().restore(state)


def test_every_kind_has_indicators() -> None:
    assert KINDS == {
        "shift": ("disagreement", "low_score", "unsure", "foreign", "override"),
        "accuracy": ("error",),
    }


def _without_times(state: JsonValue) -> JsonValue:
    text = json.dumps(state)
    found = json.loads(text)
    for route in found["routes"].values():
        del route["seen"]
    return found  # type: ignore[no-any-return]
