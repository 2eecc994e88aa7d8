"""The classes that have a series: bounded, stable, and exact."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from serving.metrics.events import Metrics
from serving.metrics.top_classes import MAX_CLASSES, TopClasses

MANY = [f"class {number}" for number in range(3 * MAX_CLASSES)]


def predicted(metrics: Metrics, name: str, times: int = 1) -> None:
    for _ in range(times):
        metrics.prediction(
            route="birds", domain="", predicted=MANY.index(name), class_name=name, votes=[0], confidence=0.9,
            entropy=0.1, mutual_information=0.0, agreement=1.0,
        )  # fmt: skip


def shown(metrics: Metrics) -> dict[str, float]:
    (family,) = (f for f in metrics.registry.collect() if f.name == "corolla_class_predictions")
    assert {sample.labels["route"] for sample in family.samples} <= {"birds"}
    return {sample.labels["class"]: sample.value for sample in family.samples}


def test_all_classes_of_a_small_task_are_shown_from_the_start() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.add_route("birds", ["lora"], MANY[:3])
    assert shown(metrics) == dict.fromkeys(MANY[:3], 0)

    predicted(metrics, MANY[2], times=4)
    metrics.add_route("birds", ["ssf"], MANY[:3])
    assert shown(metrics) == {MANY[0]: 0, MANY[1]: 0, MANY[2]: 4}


def test_of_a_large_task_those_answered_most_often_are_shown_with_their_whole_count() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.add_route("birds", ["lora"], MANY)
    for number, name in enumerate(MANY):
        predicted(metrics, name, times=1 + 2 * number)

    assert len(shown(metrics)) == MAX_CLASSES
    assert set(shown(metrics)) == set(MANY[-MAX_CLASSES:])
    assert shown(metrics)[MANY[-1]] == 1 + 2 * (len(MANY) - 1)


def test_names_that_a_scrape_cannot_hold_are_shown_as_far_as_it_can() -> None:
    metrics = Metrics(CollectorRegistry())
    names = ['a "quoted"\nname', "caf\udce9", "x" * 1000, "x" * 1001]
    metrics.add_route("birds", ["lora"], names)
    predicted(metrics, MANY[0])

    assert 'class="caf?"' in generate_latest(metrics.registry).decode()
    assert list(shown(metrics)) == ['a "quoted"\nname', "caf?", "x" * 128, MANY[0]]


def test_two_classes_that_are_equally_frequent_do_not_take_turns() -> None:
    top = TopClasses(MANY)
    for _ in range(100):
        for name in MANY[: MAX_CLASSES + 1]:
            assert top.add(name) is None


@given(st.lists(st.sampled_from(MANY)))
def test_whatever_is_answered_no_shown_class_is_far_behind_one_that_is_not(names: list[str]) -> None:
    top = TopClasses(MANY)
    for name in names:
        top.add(name)

    counts = Counter(names)
    assert len(set(top.shown)) == MAX_CLASSES
    least = min(counts[name] for name in top.shown)
    assert all(counts[name] <= 1.1 * least for name in MANY if name not in top.shown)
    assert {name: top.count(name) for name in MANY} == {name: counts[name] for name in MANY}
