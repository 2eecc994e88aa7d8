"""Every metric of the server, defined once: the scrape and docs/metrics.md both come from here.

Every per-image signal is a counter or a histogram, so that PromQL picks the window and sums replicas.
Edges of buckets never change within a series' life: a new set of edges is a new metric.
"""

from petl_vit.confidence import EDGES
from petl_vit.signals import DISTANCE_EDGES, MARGIN_EDGES
from serving.metrics.feedback_definitions import FEEDBACK
from serving.metrics.series import Definition
from serving.metrics.series import counter as _counter
from serving.metrics.series import gauge as _gauge
from serving.metrics.series import histogram as _histogram
from serving.metrics.top_classes import MAX_CLASSES

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_MEMBERS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
_ADAPTERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
_TENTHS = tuple(tenth / 10 for tenth in range(1, 11))
_DIFFERENCES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.5, 1)
_INFORMATION = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2)
_ENTROPY = (*_INFORMATION, 3, 5, 7)


SECTIONS: dict[str, tuple[Definition, ...]] = {
    "Requests": (
        _counter("corolla_requests_total", "method code", "Calls answered, by gRPC status code."),
        _histogram(
            "corolla_request_duration_seconds", "method", "From a call's arrival to its answer.", _SECONDS
        ),
        _counter("corolla_images_total", "status", "Images received: ok, or invalid where one got an error."),
    ),
    "Access": (
        _counter(
            "corolla_refused_calls_total",
            "reason",
            "Calls refused for who makes them: they show no token or certificate (no_credentials), or one "
            "that is not a token (malformed), not known (unknown_token, unknown_certificate), expired or "
            "revoked; the principal lacks the scope, or has sent as many requests as it may (requests).",
        ),
        _counter(
            "corolla_principal_requests_total",
            "principal code",
            "Calls of a principal answered, by gRPC status code; those of a stream one by one.",
        ),
        _counter(
            "corolla_principal_rows_total",
            "principal",
            "Rows that a principal was let send. A row is one image for one member.",
        ),
    ),
    "Batches": (
        _gauge("corolla_queue_rows", "", "Rows waiting for the engine. A row is one image for one member."),
        _gauge("corolla_queue_bytes", "", "Host memory of the images of those rows."),
        _counter(
            "corolla_queue_dropped_total",
            "reason",
            "Images never computed: expired or cancelled in the queue; refused at once because their "
            "deadline was unmeetable, or because as much waited or was being decoded as may (full_rows, "
            "full_bytes).",
        ),
        _histogram("corolla_queue_duration_seconds", "", "Time a row waited for the engine.", _SECONDS),
        _histogram("corolla_batch_rows", "", "Rows in one forward pass.", _ROWS),
        _histogram("corolla_batch_adapters", "", "Distinct adapters in one forward pass.", _ADAPTERS),
        _histogram("corolla_forward_duration_seconds", "", "Time of one forward pass.", _SECONDS),
        _counter("corolla_out_of_memory_total", "", "Forward passes that did not fit into memory at once."),
    ),
    "Predictions": (
        _counter("corolla_predictions_total", "route domain", "Images answered."),
        _histogram(
            "corolla_prediction_confidence_ratio",
            "route domain",
            "Probability of the answered class.",
            EDGES,
        ),
        _counter(
            "corolla_prediction_bin_total",
            "route domain bin",
            "Images answered, by confidence: bin 0 is [0, 0.1), bin 9 is [0.9, 1].",
        ),
        _histogram(
            "corolla_prediction_entropy_nats",
            "route domain",
            "Entropy of the answered probabilities.",
            _ENTROPY,
        ),
        _histogram(
            "corolla_margin_ratio",
            "route domain",
            "Probability of the answered class minus that of the runner-up.",
            MARGIN_EDGES,
        ),
        _counter(
            "corolla_invalid_scores_total",
            "route member",
            "NaN or infinite scores, which nothing else counts; the member `ensemble` is the answer itself, "
            "`frozen` what the frozen backbone says.",
        ),
    ),
    "Estimates": (
        _counter(
            "corolla_estimated_correct_total",
            "route domain method",
            "Right answers that a method expects, without labels: the sum of the answers' confidences "
            "(confidence), of the shares of the members whose class they are (vote; two or more members), "
            "and the answers whose log confidence (atc_mc) or negative entropy (atc_ne) reaches the "
            "threshold of the route's reference.",
        ),
        _counter(
            "corolla_estimated_predictions_total",
            "route domain method",
            "Images that a method scored: what its estimate divides by. The atc methods score only while "
            "there is a reference of exactly what answers.",
        ),
        _counter(
            "corolla_estimated_correct_squares_total",
            "route domain",
            "The sum of the squares of the confidences, for intervals; over "
            '`corolla_estimated_predictions_total{method="confidence"}`.',
        ),
    ),
    "Frozen share": (
        _counter(
            "corolla_frozen_predictions_total",
            "route domain",
            "Images that the frozen backbone with its task's base head answered beside a named route: "
            "`--frozen-share` of all, by their content.",
        ),
        _counter(
            "corolla_base_overrides_total",
            "route domain",
            "Those of them where the route answers another class than the base head alone.",
        ),
        _histogram(
            "corolla_feature_distance_ratio",
            "route domain",
            "Distance of their frozen features from those of the reference images, divided by what 95 % of "
            "these do not exceed; only while there is a reference with features of exactly what answers.",
            DISTANCE_EDGES,
        ),
        _counter(
            "corolla_foreign_inputs_total",
            "route domain",
            "Those of them that are farther: beyond a ratio of 1. Divide by "
            "`corolla_feature_distance_ratio_count`; of images like the reference's it is 5 %.",
        ),
    ),
    "Classes": (
        _counter(
            "corolla_class_predictions_total",
            "route class",
            f"Images answered with a class, in every domain; of each named route at most {MAX_CLASSES} "
            "classes: all of a task that has no more, else those that this server answers most often. One "
            "that becomes one of them has its whole count.",
        ),
    ),
    "Ensembles": (
        _counter(
            "corolla_ensemble_predictions_total",
            "route domain consensus",
            "Images answered by two or more members, by the shape of their vote: unanimous, majority "
            "(more than half), plurality (most, but not more than half), tie.",
        ),
        _histogram(
            "corolla_ensemble_agreement_ratio",
            "route domain",
            "Share of the members whose class is the answer's; two or more members.",
            _TENTHS,
        ),
        _histogram(
            "corolla_ensemble_mutual_information_nats",
            "route domain",
            "Mutual information of class and member: how far members disagree; two or more members.",
            _INFORMATION,
        ),
        _counter(
            "corolla_member_predictions_total",
            "route domain member",
            "Images a member scored; named routes of at most 16 members.",
        ),
        _counter(
            "corolla_member_vote_agreements_total",
            "route domain member",
            "Images where the member's class is the answer's; named routes of at most 16 members.",
        ),
        _counter(
            "corolla_ensemble_pair_agreements_total",
            "route domain pair",
            "Images where both members of a pair name the same class; named routes of 2 to 8 members.",
        ),
        _counter(
            "corolla_ensemble_pair_comparisons_total",
            "route domain pair",
            "Images that both members of a pair scored; named routes of 2 to 8 members.",
        ),
    ),
    "Cascades": (
        _histogram(
            "corolla_cascade_members_asked",
            "route domain",
            "Members that an answer of a cascade is of; all of them where its thresholds are void.",
            _MEMBERS,
        ),
        _gauge(
            "corolla_cascade_void",
            "route",
            "1 while the thresholds of a named cascade belong to other versions than those that answer, so "
            "that all its members do.",
        ),
        _counter(
            "corolla_cascade_full_predictions_total",
            "route domain",
            "Images put to all members of a cascade, whatever the answer needs: `--cascade-full-share` of "
            "them, by their content. The metrics of ensembles, members, pairs and members' feedback count "
            "only these of a cascade.",
        ),
        _counter(
            "corolla_cascade_full_agreements_total",
            "route domain",
            "Those of them that all members together answer as the cascade did.",
        ),
    ),
    "References": (
        _gauge(
            "corolla_reference_info",
            "route digest data reference",
            "1 for the reference of a named route, with the digests of the route that was measured, of the "
            "images, and of all that it says. Replicas that compare with others show other digests.",
        ),
        _gauge(
            "corolla_reference_stale",
            "route",
            "1 while the reference of a named route is of other versions, weights, temperature or thresholds "
            "than those that answer: nothing is estimated by it, and it has no gauges but this and "
            "`corolla_reference_info`.",
        ),
        _gauge(
            "corolla_reference_images",
            "route",
            "Labelled images behind all numbers of the reference; 0 where a route has none, or a stale one.",
        ),
        _gauge("corolla_reference_accuracy_ratio", "route", "Share of them that are answered rightly."),
        _gauge(
            "corolla_reference_member_accuracy_ratio",
            "route member",
            "Share of them that a member answers rightly; routes of at most 16 members.",
        ),
        _gauge("corolla_reference_confidence_ratio", "route", "Mean probability of the answered class."),
        _gauge(
            "corolla_reference_confidence_cdf_ratio",
            "route edge",
            "Share of them whose confidence does not exceed an edge: an `le` of "
            "`corolla_prediction_confidence_ratio`, which a gauge may not have.",
        ),
        _gauge(
            "corolla_reference_bin_ratio",
            "route bin",
            "Share of them in a bin of `corolla_prediction_bin_total`.",
        ),
        _gauge(
            "corolla_reference_pair_agreement_ratio",
            "route pair",
            "Share of them of which two members name the same class; routes of 2 to 8 members.",
        ),
        _gauge(
            "corolla_reference_agreement_ratio",
            "route",
            "Mean share of the members whose class is the answer's.",
        ),
        _gauge(
            "corolla_reference_unanimous_ratio",
            "route",
            "Share of them that all members answer alike; two or more members, where it was measured.",
        ),
        _gauge(
            "corolla_reference_estimate_ratio",
            "route method",
            "Accuracy that an estimate without labels makes of them: confidence, vote, atc_mc, atc_ne.",
        ),
        _gauge(
            "corolla_reference_rate_ratio",
            "route indicator",
            "Mean over them of a number that alarms watch: error, unsure, low_score, disagreement (of two or "
            "more members), foreign and override (where they were measured).",
        ),
        _gauge(
            "corolla_temperature_ratio",
            "route",
            "What divides the combined logits of a named route now; a cascade's, once all members are asked.",
        ),
    ),
    "Feedback": FEEDBACK,
    "State": (
        _gauge("corolla_ready", "", "1 while the server takes work, 0 while it starts, stalls or stops."),
        _gauge(
            "corolla_event_loop_tasks", "", "Tasks of the event loop: several for a call, and a few more."
        ),
        _gauge(
            "corolla_heap_bytes",
            "state",
            "Memory of the C library that is used, or free and kept to be used again; from glibc 2.33.",
        ),
        _gauge("corolla_backbone_bytes", "", "Memory of the backbone's parameters."),
        _gauge(
            "corolla_row_buffer_bytes",
            "",
            "Memory of the buffers for rows, which stay from one forward pass to the next. The whole process "
            "takes `process_resident_memory_bytes`.",
        ),
        _gauge("corolla_registered_adapters", "", "Adapters in host memory, ready for a slot."),
        _gauge("corolla_registered_bytes", "", "Host memory of their tensors."),
        _gauge("corolla_slot_adapters", "", "Adapters in a slot, ready for a forward pass."),
        _gauge("corolla_slot_bytes", "", "Memory of their tensors; on a CPU these are the registered ones."),
        _histogram("corolla_adapter_load_duration_seconds", "", "From the store into host memory.", _SECONDS),
        _counter("corolla_adapter_evictions_total", "", "Adapters that left host memory to make room."),
        _counter(
            "corolla_precision_checks_total",
            "result",
            "Adapters compared with fp32 after loading in bf16: within or beyond the bound, or failed.",
        ),
        _histogram(
            "corolla_precision_difference_ratio",
            "",
            "Largest change of an adapter's logits in bf16, relative to the largest; the bound is 0.05.",
            _DIFFERENCES,
        ),
        _gauge(
            "corolla_adapter_info",
            "route member version method digest",
            "1 for the adapter that a member of a named route resolves to on this replica; join it on (job, "
            "instance, route, member).",
        ),
        _gauge("corolla_backbone_info", "digest architecture", "1 for the resident backbone."),
        _gauge(
            "corolla_build_info",
            "version python torch device precision",
            "1 for the running version and where it computes.",
        ),
    ),
}
DEFINITIONS = tuple(definition for section in SECTIONS.values() for definition in section)
