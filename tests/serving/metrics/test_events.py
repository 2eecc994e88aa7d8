import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from serving.metrics.events import Metrics
from serving.metrics.label_values import MAX_ROUTES, Domains
from tests.serving.metrics.counting import label, predict, series, value

MEMBERS = ("lora", "ssf", "bitfit")


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(CollectorRegistry(), Domains(["clinic-a", "clinic-b"]))
    made.add_route("all", MEMBERS)
    return made


def test_an_answer_of_an_ensemble_moves_all_its_series(metrics: Metrics) -> None:
    predict(metrics)

    here = {"route": "all", "domain": "clinic-a"}
    assert value(metrics, "corolla_predictions_total", **here) == 1
    assert value(metrics, "corolla_prediction_bin_total", **here, bin="8") == 1
    assert value(metrics, "corolla_prediction_confidence_ratio_sum", **here) == 0.87
    assert value(metrics, "corolla_prediction_confidence_ratio_bucket", **here, le="0.85") == 0
    assert value(metrics, "corolla_prediction_confidence_ratio_bucket", **here, le="0.9") == 1
    assert value(metrics, "corolla_prediction_entropy_nats_sum", **here) == 0.4
    assert value(metrics, "corolla_ensemble_predictions_total", **here, consensus="majority") == 1
    assert value(metrics, "corolla_ensemble_agreement_ratio_count", **here) == 1
    assert value(metrics, "corolla_ensemble_mutual_information_nats_sum", **here) == 0.05
    assert value(metrics, "corolla_member_predictions_total", **here, member="bitfit") == 1
    assert value(metrics, "corolla_member_vote_agreements_total", **here, member="lora") == 1
    assert value(metrics, "corolla_member_vote_agreements_total", **here, member="bitfit") == 0
    assert value(metrics, "corolla_ensemble_pair_agreements_total", **here, pair="lora:ssf") == 1
    assert value(metrics, "corolla_ensemble_pair_agreements_total", **here, pair="bitfit:lora") == 0
    assert value(metrics, "corolla_ensemble_pair_comparisons_total", **here, pair="bitfit:lora") == 1


def test_a_single_model_has_no_ensemble_series(metrics: Metrics) -> None:
    metrics.add_route("one", ["lora"])
    predict(metrics, "one", votes=[3], agreement=1.0)

    here = {"route": "one", "domain": "clinic-a"}
    assert value(metrics, "corolla_predictions_total", **here) == 1
    assert value(metrics, "corolla_member_predictions_total", **here, member="lora") == 1
    assert value(metrics, "corolla_ensemble_agreement_ratio_count", **here) is None
    assert value(metrics, "corolla_ensemble_predictions_total", **here, consensus="unanimous") is None


def test_a_named_route_shows_every_series_at_zero_before_its_first_image(metrics: Metrics) -> None:
    for domain in ("clinic-a", "clinic-b", "other", "unset"):
        here = {"route": "all", "domain": domain}
        assert value(metrics, "corolla_predictions_total", **here) == 0
        assert value(metrics, "corolla_prediction_confidence_ratio_count", **here) == 0
        assert value(metrics, "corolla_ensemble_pair_agreements_total", **here, pair="lora:ssf") == 0
        assert value(metrics, "corolla_feedback_total", **here, outcome="correct") == 0
    assert value(metrics, "corolla_batch_rows_count") == 0


def test_a_protocols_calls_show_at_zero_once_they_are_known(metrics: Metrics) -> None:
    metrics.add_methods(["Classify", "Embed"], ["OK", "NOT_FOUND"])

    assert len(series(metrics, "corolla_requests_total")) == 4
    assert value(metrics, "corolla_requests_total", method="Embed", code="NOT_FOUND") == 0
    assert value(metrics, "corolla_request_duration_seconds_count", method="Classify") == 0


def test_other_routes_are_adhoc_and_have_no_member_or_pair_series(metrics: Metrics) -> None:
    for route in ("0.6*lora, ssf", "lora", "adhoc"):
        predict(metrics, route)

    assert value(metrics, "corolla_predictions_total", route="adhoc", domain="clinic-a") == 3
    for name in ("corolla_member_predictions_total", "corolla_ensemble_pair_agreements_total"):
        assert {labels["route"] for labels in series(metrics, name)} == {"all"}


def test_the_number_of_series_does_not_depend_on_what_clients_send(metrics: Metrics) -> None:
    predict(metrics)
    predict(metrics, "adhoc")
    before = len(generate_latest(metrics.registry).splitlines())
    for index in range(200):
        predict(metrics, f"route-{index}", f"domain-{index}")

    assert len(generate_latest(metrics.registry).splitlines()) == before
    assert value(metrics, "corolla_predictions_total", route="adhoc", domain="other") == 200


def test_routes_beyond_the_limit_count_as_other(metrics: Metrics) -> None:
    labels = [metrics.add_route(f"route-{index}", ["lora"]) for index in range(MAX_ROUTES + 5)]
    predict(metrics, labels[-1], votes=[3])

    assert labels[: MAX_ROUTES - 1] == [f"route-{index}" for index in range(MAX_ROUTES - 1)]
    assert set(labels[MAX_ROUTES - 1 :]) == {"other"}
    assert value(metrics, "corolla_predictions_total", route="other", domain="clinic-a") == 1


@pytest.mark.parametrize("name", ["adhoc", "other", "unknown"])
def test_a_route_named_like_a_reserved_label_counts_as_other(metrics: Metrics, name: str) -> None:
    assert metrics.add_route(name, MEMBERS) == "other"


def test_a_route_with_many_members_has_no_pair_series_and_with_more_no_member_series(
    metrics: Metrics,
) -> None:
    metrics.add_route("nine", [f"m{index}" for index in range(9)])
    metrics.add_route("many", [f"m{index}" for index in range(17)])
    predict(metrics, "nine", votes=[3] * 9)
    predict(metrics, "many", votes=[3] * 17)

    assert {labels["route"] for labels in series(metrics, "corolla_member_predictions_total")} == {
        "all",
        "nine",
    }
    assert {labels["route"] for labels in series(metrics, "corolla_ensemble_pair_agreements_total")} == {
        "all"
    }
    assert value(metrics, "corolla_predictions_total", route="many", domain="clinic-a") == 1


def test_members_of_one_label_are_told_apart(metrics: Metrics) -> None:
    metrics.add_route("versions", ["lora", "lora"])
    predict(metrics, "versions", votes=[3, 5])

    here = {"route": "versions", "domain": "clinic-a"}
    assert value(metrics, "corolla_member_vote_agreements_total", **here, member="lora") == 1
    assert value(metrics, "corolla_member_vote_agreements_total", **here, member="lora#2") == 0


def test_a_route_given_new_members_keeps_what_the_old_ones_counted(metrics: Metrics) -> None:
    predict(metrics)
    metrics.add_route("all", ["lora", "vpt"])
    predict(metrics, votes=[3, 5])

    here = {"route": "all", "domain": "clinic-a"}
    assert value(metrics, "corolla_member_predictions_total", **here, member="lora") == 2
    assert value(metrics, "corolla_member_predictions_total", **here, member="ssf") == 1
    assert value(metrics, "corolla_member_predictions_total", **here, member="vpt") == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_counted_and_never_observed(metrics: Metrics, bad: float) -> None:
    predict(metrics, confidence=bad, entropy=bad, mutual_information=bad)

    here = {"route": "all", "domain": "clinic-a"}
    assert value(metrics, "corolla_invalid_scores_total", route="all", member="ensemble") == 3
    assert value(metrics, "corolla_predictions_total", **here) == 1
    for name in (
        "prediction_confidence_ratio",
        "prediction_entropy_nats",
        "ensemble_mutual_information_nats",
    ):
        assert value(metrics, f"corolla_{name}_count", **here) == 0


def test_a_members_invalid_scores_are_its_own_on_a_named_route_only(metrics: Metrics) -> None:
    metrics.invalid_scores("all", "lora")
    metrics.invalid_scores("0.3*lora", "lora")

    assert value(metrics, "corolla_invalid_scores_total", route="all", member="lora") == 1
    assert value(metrics, "corolla_invalid_scores_total", route="adhoc", member="ensemble") == 1


@settings(max_examples=25)  # all series are made for each
@given(st.floats(-1e-6, 1 + 1e-6), st.floats(-1e-6, 8), st.integers(0, 3))
def test_sums_never_go_down_and_every_confidence_has_a_bin(
    confidence: float, entropy: float, agree: int
) -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.add_route("all", MEMBERS)
    predict(metrics, domain="unset", confidence=confidence, entropy=entropy, agreement=agree / 3)

    here = {"route": "all", "domain": "unset"}
    bins = [value(metrics, "corolla_prediction_bin_total", **here, bin=str(bin_)) for bin_ in range(10)]
    assert sorted(map(float, filter(None, bins))) == [1]
    sums = {
        "prediction_confidence_ratio": max(confidence, 0.0),
        "prediction_entropy_nats": max(entropy, 0.0),
        "ensemble_agreement_ratio": round(agree / 3, 6),
    }
    assert {name: value(metrics, f"corolla_{name}_sum", **here) for name in sums} == sums


def test_requests_images_and_batches_are_counted(metrics: Metrics) -> None:
    metrics.add_methods(["Classify"], ["OK"])
    metrics.request("Classify", "OK", 0.02)
    metrics.request("MadeUp", "OK", 0.02)
    metrics.images(ok=3, invalid=1)
    metrics.queued(0.004)
    metrics.batch(16, 6, 0.1)
    metrics.set_queue_rows(5)

    assert value(metrics, "corolla_requests_total", method="Classify", code="OK") == 1
    assert value(metrics, "corolla_requests_total", method="MadeUp", code="OK") is None
    assert value(metrics, "corolla_request_duration_seconds_bucket", method="Classify", le="0.025") == 1
    assert value(metrics, "corolla_images_total", status="ok") == 3
    assert value(metrics, "corolla_images_total", status="invalid") == 1
    assert value(metrics, "corolla_queue_duration_seconds_count") == 1
    assert value(metrics, "corolla_batch_rows_bucket", le="16.0") == 1
    assert value(metrics, "corolla_batch_adapters_sum") == 6
    assert value(metrics, "corolla_forward_duration_seconds_sum") == 0.1
    assert value(metrics, "corolla_queue_rows") == 5


def test_what_is_never_computed_is_counted_by_its_reason(metrics: Metrics) -> None:
    metrics.set_queue_bytes(4096)
    metrics.dropped("expired")
    metrics.dropped("unmeetable")
    metrics.dropped("unmeetable")

    assert value(metrics, "corolla_queue_bytes") == 4096
    assert {
        labels["reason"]: value(metrics, "corolla_queue_dropped_total", **labels)
        for labels in series(metrics, "corolla_queue_dropped_total")
    } == {"expired": 1, "cancelled": 0, "unmeetable": 2, "full_rows": 0, "full_bytes": 0}


def test_loads_evictions_and_a_lack_of_memory_are_counted(metrics: Metrics) -> None:
    metrics.adapter_loaded(0.02)
    metrics.adapter_evicted()
    metrics.out_of_memory()

    assert value(metrics, "corolla_adapter_load_duration_seconds_bucket", le="0.025") == 1
    assert value(metrics, "corolla_adapter_evictions_total") == 1
    assert value(metrics, "corolla_out_of_memory_total") == 1


def test_labels_become_accuracy_counters(metrics: Metrics) -> None:
    members = {"lora": True, "ssf": True, "bitfit": False}
    label(metrics, correct=True, members=members, delay_s=30)

    assert value(metrics, "corolla_feedback_submissions_total", route="all", status="matched") == 1
    assert value(metrics, "corolla_feedback_total", route="all", domain="clinic-a", outcome="correct") == 1
    by_member, here = "corolla_member_feedback_total", {"route": "all", "domain": "clinic-a"}
    assert value(metrics, by_member, **here, member="lora", outcome="correct") == 1
    assert value(metrics, by_member, **here, member="bitfit", outcome="incorrect") == 1
    assert value(metrics, by_member, route="all", domain="clinic-b", member="lora", outcome="correct") == 0
    assert value(metrics, "corolla_feedback_delay_seconds_bucket", route="all", le="60.0") == 1


def test_feedback_for_a_route_that_is_gone_counts_as_adhoc(metrics: Metrics) -> None:
    label(metrics, "gone", "gone", correct=False, members={"x": True}, delay_s=-5)

    assert value(metrics, "corolla_feedback_total", route="adhoc", domain="other", outcome="incorrect") == 1
    assert value(metrics, "corolla_feedback_delay_seconds_sum", route="adhoc") == 0


def test_a_members_new_version_replaces_the_old_one(metrics: Metrics) -> None:
    for version in ("1", "2"):
        metrics.set_adapter(route="all", member="lora", version=version, method="lora", digest="d" + version)

    assert [labels["version"] for labels in series(metrics, "corolla_adapter_info")] == ["2"]


def test_a_member_that_left_the_route_is_no_longer_shown(metrics: Metrics) -> None:
    for member in MEMBERS:
        metrics.set_adapter(route="all", member=member, version="1", method=member, digest="d")
    metrics.add_route("all", ["lora"])

    assert [labels["member"] for labels in series(metrics, "corolla_adapter_info")] == ["lora"]


def test_state_is_shown(metrics: Metrics) -> None:
    metrics.set_ready(True)
    metrics.set_tasks(9)
    metrics.set_heap(3_000, 40)
    metrics.set_registered(6, 123_456)
    metrics.set_backbone(digest="abc", architecture="vit_small_patch14_dinov2", size=789)
    metrics.set_row_buffers(12)
    metrics.set_build(version="0.1.0", python="3.11", torch="2.15", device="cpu", precision="fp32")
    metrics.set_slots(4, 4_567)

    assert value(metrics, "corolla_ready") == 1
    assert value(metrics, "corolla_event_loop_tasks") == 9
    assert value(metrics, "corolla_heap_bytes", state="used") == 3_000
    assert value(metrics, "corolla_heap_bytes", state="free") == 40
    assert value(metrics, "corolla_registered_adapters") == 6
    assert value(metrics, "corolla_registered_bytes") == 123_456
    assert value(metrics, "corolla_slot_adapters") == 4
    assert value(metrics, "corolla_slot_bytes") == 4_567
    assert value(metrics, "corolla_backbone_bytes") == 789
    assert value(metrics, "corolla_row_buffer_bytes") == 12
    (build,) = series(metrics, "corolla_build_info")
    assert (build["device"], build["precision"]) == ("cpu", "fp32")
    assert len(series(metrics, "corolla_backbone_info")) == len(series(metrics, "corolla_build_info")) == 1


def test_two_servers_fit_in_one_process(metrics: Metrics) -> None:
    other = Metrics(CollectorRegistry())
    predict(metrics)

    assert value(other, "corolla_predictions_total", route="adhoc", domain="unset") == 0


def test_two_servers_do_not_share_a_registry(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(metrics.registry)


def test_threads_lose_no_count_and_a_scrape_sees_whole_images(metrics: Metrics) -> None:
    def work() -> None:
        for _ in range(300):
            predict(metrics)

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work) for _ in range(4)]
        while not all(future.done() for future in running):
            seen = {
                sample.name: sample.value
                for family in metrics.registry.collect()
                for sample in family.samples
                if (sample.labels.get("route"), sample.labels.get("domain")) == ("all", "clinic-a")
            }
            images = seen["corolla_predictions_total"]
            assert images == seen["corolla_prediction_entropy_nats_count"]
            assert images == seen["corolla_ensemble_mutual_information_nats_count"]

    assert value(metrics, "corolla_predictions_total", route="all", domain="clinic-a") == 1200


def test_an_image_costs_little(metrics: Metrics) -> None:
    """Generous for a busy machine; on an idle one it is about 10 microseconds for six members."""
    metrics.add_route("six", [f"m{index}" for index in range(6)])

    def once() -> float:
        start = time.thread_time()
        for _ in range(200):
            predict(metrics, "six", votes=[3, 3, 3, 5, 3, 1])
        return (time.thread_time() - start) / 200

    assert min(once() for _ in range(10)) < 200e-6
