"""What the server counts, as events of the server: a call, a batch, an answered image, a label.

`definitions` says what each metric means, `series` how it is kept. Label values are bounded here, whatever
clients send: routes are the named ones, `adhoc` for any other and `other` beyond `MAX_ROUTES`; domains come
from an allow-list; members and pairs exist for named routes only, which are configuration. No class, image,
path or prediction id is ever a label.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from model_store.names import check_name
from petl_vit.errors import InvalidInput
from serving.metrics.definitions import DEFINITIONS
from serving.metrics.series import Labels, Series

MAX_DOMAINS = 16
MAX_ROUTES = 64
MAX_MEMBERS = 16  # beyond it a route has no member series
MAX_PAIRED_MEMBERS = 8  # beyond it a route has no pair series: they grow with the square
BINS = 10

ADHOC = "adhoc"
OTHER = "other"
UNSET = "unset"
UNKNOWN = "unknown"
ENSEMBLE = "ensemble"

METHODS = (
    "Classify",
    "ClassifyStream",
    "Embed",
    "Feedback",
    "ListAdapters",
    "LoadAdapter",
    "UnloadAdapter",
    "PinAdapter",
    "UnpinAdapter",
    "ListAliases",
    "SetAlias",
    "ListRoutes",
    "PutRoute",
    "DeleteRoute",
    "Reload",
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelConfig",
    "ModelInfer",
    "ModelStreamInfer",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
)
CODES = (
    "OK",
    "ABORTED",
    "CANCELLED",
    "DATA_LOSS",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
)
CONSENSUS = ("unanimous", "majority", "plurality", "tie")
DROPS = ("expired", "cancelled", "unmeetable", "full_rows", "full_bytes")
REFUSALS = ("duplicate", "invalid_token", "invalid_class")


class Domains:
    """The allow-list of domains: where images come from, as an operator slices the metrics.

    Raises:
        InvalidInput: Too many names, or a name that is none.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        for name in names:
            check_name(name, "domains")
        if len(set(names)) > MAX_DOMAINS:
            problem = f"{len(set(names))} domains; at most {MAX_DOMAINS} keep the number of series bounded"
            raise InvalidInput(problem, field="domains", remedy="merge the rare ones: they count as `other`")
        self.names = tuple(dict.fromkeys((*names, OTHER, UNSET)))
        self._known = frozenset(self.names)

    def label(self, text: str) -> str:
        """The label for what a client sent: the name itself, `other`, or `unset` for nothing."""
        if text in self._known:
            return text
        return OTHER if text else UNSET


def consensus(votes: Sequence[int]) -> str:
    """The shape of a vote: unanimous, majority (more than half), plurality (most, but not half) or tie."""
    counts = sorted(map(votes.count, set(votes)), reverse=True)
    if len(counts) == 1:
        return "unanimous"
    if counts[0] * 2 > len(votes):
        return "majority"
    return "tie" if counts[0] == counts[1] else "plurality"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keys:
    """The label values of one route in one domain, made once because every image needs them."""

    base: Labels
    consensus: Mapping[str, Labels]
    bins: tuple[Labels, ...]
    members: tuple[Labels, ...]
    pairs: tuple[tuple[int, int, Labels], ...]


class Metrics:
    """What one server counts. Its methods may be called from any thread; none raises on odd numbers.

    `route` and `member` are labels as `add_route` was given them; any other route counts as `adhoc`.
    """

    def __init__(self, registry: CollectorRegistry, domains: Domains | None = None) -> None:
        self.registry = registry
        self.domains = domains or Domains()
        self.known_routes: dict[str, tuple[str, ...]] = {}
        self._series = Series(DEFINITIONS)
        self._lock = self._series.lock
        self._add = self._series.numbers
        self._observe = self._series.histograms
        self._keys: dict[tuple[str, str], _Keys] = {}
        registry.register(self._series)
        ProcessCollector(registry=registry)
        with self._lock:
            self._create_unlabelled()
            self._create_route(ADHOC, ())

    # Requests and batches

    def request(self, method: str, code: str, seconds: float) -> None:
        """One call was answered with a gRPC status code, by its name."""
        with self._lock:
            self._add["corolla_requests_total"].add((method, code))
            self._observe["corolla_request_duration_seconds"].observe(seconds, (method,))

    def images(self, *, ok: int = 0, invalid: int = 0) -> None:
        """Images of one request that could be classified, and that could not."""
        with self._lock:
            self._add["corolla_images_total"].add(("ok",), ok)
            self._add["corolla_images_total"].add(("invalid",), invalid)

    def set_queue_bytes(self, size: int) -> None:
        with self._lock:
            self._add["corolla_queue_bytes"].set(size)

    def dropped(self, reason: str) -> None:
        """One image is not computed; `reason` is one of `DROPS`."""
        with self._lock:
            self._add["corolla_queue_dropped_total"].add((reason,))

    def out_of_memory(self) -> None:
        """One forward pass did not fit into memory."""
        with self._lock:
            self._add["corolla_out_of_memory_total"].add()

    def set_queue_rows(self, rows: int) -> None:
        with self._lock:
            self._add["corolla_queue_rows"].set(rows)

    def queued(self, seconds: float) -> None:
        """One row waited so long."""
        with self._lock:
            self._observe["corolla_queue_duration_seconds"].observe(seconds)

    def batch(self, rows: int, adapters: int, seconds: float) -> None:
        """One forward pass ran."""
        with self._lock:
            self._observe["corolla_batch_rows"].observe(rows)
            self._observe["corolla_batch_adapters"].observe(adapters)
            self._observe["corolla_forward_duration_seconds"].observe(seconds)

    # Predictions

    def add_route(self, name: str, members: Sequence[str]) -> str:
        """Makes a named route known, or gives a known one its new members, and shows its series at zero.

        Members of the same label are told apart as `lora`, `lora#2`.

        Returns:
            The route's label: its name, or `other` when there are too many routes or the name is taken.
        """
        # Too many members to count each: the route is known, its members are not.
        labels = _distinct(members) if len(members) <= MAX_MEMBERS else ()
        if self.known_routes.get(name) == labels:
            return name
        with self._lock:
            full = len(self.known_routes) >= MAX_ROUTES and name not in self.known_routes
            if full or name in (ADHOC, OTHER, UNKNOWN):
                self._create_route(OTHER, ())
                return OTHER
            self.known_routes[name] = labels
            self._create_route(name, labels)
            self._forget_adapters(lambda route, member: route == name and member not in labels)
            return name

    def prediction(
        self,
        *,
        route: str,
        domain: str,
        predicted: int,
        votes: Sequence[int],
        confidence: float,
        entropy: float,
        mutual_information: float,
        agreement: float,
    ) -> None:
        """One image was answered.

        Args:
            domain: A label from `Domains.label`.
            predicted: The answered class.
            votes: Each member's class, in the order of the route's members.
            agreement: Share of the votes that are `predicted`.
        """
        keys = self._keys.get((route, domain)) or self._known(route, domain)
        with self._lock:
            self._add["corolla_predictions_total"].add(keys.base)
            self._score("corolla_prediction_entropy_nats", keys, entropy)
            if self._score("corolla_prediction_confidence_ratio", keys, confidence):
                bin_ = min(max(int(confidence * BINS), 0), BINS - 1)
                self._add["corolla_prediction_bin_total"].add(keys.bins[bin_])
            if len(votes) > 1:
                self._add["corolla_ensemble_predictions_total"].add(keys.consensus[consensus(votes)])
                self._score("corolla_ensemble_mutual_information_nats", keys, mutual_information)
                # 3 of 10 may arrive as a float just above 0.3, the edge it belongs under.
                self._score("corolla_ensemble_agreement_ratio", keys, round(agreement, 6))
            if len(votes) == len(keys.members):
                self._votes(keys, predicted, votes)

    def _votes(self, keys: _Keys, predicted: int, votes: Sequence[int]) -> None:
        scored = self._add["corolla_member_predictions_total"].values
        agreed = self._add["corolla_member_vote_agreements_total"].values
        for labels, vote in zip(keys.members, votes, strict=True):
            scored[labels] += 1
            agreed[labels] += vote == predicted
        compared = self._add["corolla_ensemble_pair_comparisons_total"].values
        same = self._add["corolla_ensemble_pair_agreements_total"].values
        for first, second, labels in keys.pairs:
            compared[labels] += 1
            same[labels] += votes[first] == votes[second]

    def _score(self, name: str, keys: _Keys, value: float) -> bool:
        if not math.isfinite(value):
            self._add["corolla_invalid_scores_total"].add((keys.base[0], ENSEMBLE))
            return False
        # Rounding leaves an entropy at -1e-9, and a negative value would look like a counter's reset.
        self._observe[name].observe(max(value, 0.0), keys.base)
        return True

    def invalid_scores(self, route: str, member: str) -> None:
        """A member of a route gave NaN or infinite scores for one image."""
        route = self._label(route)
        known = member in self.known_routes.get(route, ())
        with self._lock:
            self._add["corolla_invalid_scores_total"].add((route, member if known else ENSEMBLE))

    # Feedback

    def feedback(
        self, *, route: str, domain: str, correct: bool, members: Mapping[str, bool], delay_seconds: float
    ) -> None:
        """One label was counted. `members` says for each member of a named route whether it was correct."""
        keys = self._known(route, domain)
        label, known = keys.base[0], self.known_routes.get(keys.base[0], ())
        with self._lock:
            self._add["corolla_feedback_submissions_total"].add((label, "counted"))
            self._add["corolla_feedback_total"].add((*keys.base, _outcome(correct)))
            for member in members.keys() & set(known):
                outcome = _outcome(members[member])
                self._add["corolla_member_feedback_total"].add((label, member, outcome))
            if math.isfinite(delay_seconds):
                # Clocks of two replicas may differ: a label is never older than its prediction.
                self._observe["corolla_feedback_delay_seconds"].observe(max(delay_seconds, 0.0), (label,))

    def feedback_refused(self, status: str, route: str | None = None) -> None:
        """One label was not counted, and why: one of `REFUSALS`. The route of an invalid token is unknown."""
        assert status in REFUSALS, status
        label = UNKNOWN if route is None else self._label(route)
        with self._lock:
            self._add["corolla_feedback_submissions_total"].add((label, status))

    # State

    def set_ready(self, ready: bool) -> None:
        with self._lock:
            self._add["corolla_ready"].set(int(ready))

    def set_registered(self, adapters: int, size: int) -> None:
        """So many adapters are in host memory, and take `size` bytes."""
        with self._lock:
            self._add["corolla_registered_adapters"].set(adapters)
            self._add["corolla_registered_bytes"].set(size)

    def set_slots(self, adapters: int, size: int) -> None:
        """So many adapters are in a slot, and take `size` bytes."""
        with self._lock:
            self._add["corolla_slot_adapters"].set(adapters)
            self._add["corolla_slot_bytes"].set(size)

    def adapter_loaded(self, seconds: float) -> None:
        """One adapter came from the store."""
        with self._lock:
            self._observe["corolla_adapter_load_duration_seconds"].observe(seconds)

    def adapter_evicted(self) -> None:
        """One adapter made room for another."""
        with self._lock:
            self._add["corolla_adapter_evictions_total"].add()

    def precision_checked(self, result: str, difference: float | None) -> None:
        """An adapter was compared with fp32: `within` or `beyond` the bound, or `failed`."""
        with self._lock:
            self._add["corolla_precision_checks_total"].add((result,))
            if difference is not None and math.isfinite(difference):
                self._observe["corolla_precision_difference_ratio"].observe(difference)

    def set_adapter(self, *, route: str, member: str, version: str, method: str, digest: str) -> None:
        """A member of a named route is this now; what it was before is no longer shown."""
        with self._lock:
            self._forget_adapters(lambda *shown: shown == (route, member))
            if member in self.known_routes.get(route, ()):
                self._add["corolla_adapter_info"].set(1, (route, member, version, method, digest))

    def _forget_adapters(self, gone: Callable[[str, str], bool]) -> None:
        values = self._add["corolla_adapter_info"].values
        for labels in [labels for labels in values if gone(labels[0], labels[1])]:
            del values[labels]

    def set_row_buffers(self, size: int) -> None:
        """What rows have of their own takes `size` bytes between forwards."""
        with self._lock:
            self._add["corolla_row_buffer_bytes"].set(size)

    def set_backbone(self, *, digest: str, architecture: str, size: int) -> None:
        """This backbone is resident, and its parameters take `size` bytes."""
        with self._lock:
            self._add["corolla_backbone_bytes"].set(size)
            self._add["corolla_backbone_info"].set(1, (digest, architecture))

    def set_build(self, *, version: str, python: str, torch: str, device: str, precision: str) -> None:
        labels = (version, python, torch, device, precision)
        with self._lock:
            self._add["corolla_build_info"].set(1, labels)

    # Out

    def serve(self, port: int, host: str = "127.0.0.1") -> tuple[WSGIServer, Thread]:
        """Answers scrapes from a thread of its own, on `server.server_port` (port 0 picks a free one).

        To stop it: `server.shutdown()`, `server.server_close()`, `thread.join()`.

        Raises:
            InvalidInput: The address cannot be listened on.
        """
        try:
            return start_http_server(port, host, self.registry)
        except OSError as error:
            problem = f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}"
            remedy = "choose another port, or 0 for a free one"
            raise InvalidInput(problem, field="metrics_port", remedy=remedy) from error

    # Labels

    def _label(self, route: str) -> str:
        return route if route in self.known_routes or route == OTHER else ADHOC

    def _known(self, route: str, domain: str) -> _Keys:
        """The keys of what was said, with unknown words brought to known ones."""
        pair = (self._label(route), self.domains.label(domain))
        if pair not in self._keys:
            with self._lock:
                self._create_route(pair[0], ())
        return self._keys[pair]

    def _create_unlabelled(self) -> None:
        for number in self._series.numbers.values():
            if not number.definition.labels:
                number.create(())
        for histogram in self._series.histograms.values():
            if not histogram.definition.labels:
                histogram.create(())
        for status in ("ok", "invalid"):
            self._add["corolla_images_total"].create((status,))
        for method in METHODS:
            self._observe["corolla_request_duration_seconds"].create((method,))
            for code in CODES:
                self._add["corolla_requests_total"].create((method, code))
        for result in ("within", "beyond", "failed"):
            self._add["corolla_precision_checks_total"].create((result,))
        for reason in DROPS:
            self._add["corolla_queue_dropped_total"].create((reason,))
        self._add["corolla_feedback_submissions_total"].create((UNKNOWN, "invalid_token"))

    def _create_route(self, route: str, members: tuple[str, ...]) -> None:
        for domain in self.domains.names:
            self._keys[route, domain] = _keys(route, domain, members)
            self._create_domain(self._keys[route, domain])
        self._observe["corolla_feedback_delay_seconds"].create((route,))
        self._add["corolla_invalid_scores_total"].create((route, ENSEMBLE))
        for status in ("counted", *REFUSALS):
            self._add["corolla_feedback_submissions_total"].create((route, status))
        for member in members:
            self._add["corolla_invalid_scores_total"].create((route, member))
            for outcome in ("correct", "incorrect"):
                self._add["corolla_member_feedback_total"].create((route, member, outcome))

    def _create_domain(self, keys: _Keys) -> None:
        wanted = {
            "corolla_predictions_total": [keys.base],
            "corolla_prediction_bin_total": keys.bins,
            "corolla_ensemble_predictions_total": keys.consensus.values(),
            "corolla_member_predictions_total": keys.members,
            "corolla_member_vote_agreements_total": keys.members,
            "corolla_ensemble_pair_agreements_total": [labels for *_, labels in keys.pairs],
            "corolla_ensemble_pair_comparisons_total": [labels for *_, labels in keys.pairs],
            "corolla_feedback_total": [(*keys.base, "correct"), (*keys.base, "incorrect")],
        }
        for name, all_labels in wanted.items():
            for labels in all_labels:
                self._add[name].create(labels)
        for histogram in self._series.histograms.values():
            if histogram.definition.labels == ("route", "domain"):
                histogram.create(keys.base)


def _keys(route: str, domain: str, members: tuple[str, ...]) -> _Keys:
    base = (route, domain)
    pairs = combinations(range(len(members)), 2) if len(members) <= MAX_PAIRED_MEMBERS else ()
    return _Keys(
        base=base,
        consensus={shape: (*base, shape) for shape in CONSENSUS},
        bins=tuple((*base, str(bin_)) for bin_ in range(BINS)),
        members=tuple((*base, member) for member in members),
        pairs=tuple((i, j, (*base, ":".join(sorted((members[i], members[j]))))) for i, j in pairs),
    )


def _distinct(members: Sequence[str]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    labels = []
    for member in members:
        seen[member] = seen.get(member, 0) + 1
        labels.append(member if seen[member] == 1 else f"{member}#{seen[member]}")
    return tuple(labels)


def _outcome(correct: bool) -> str:
    return "correct" if correct else "incorrect"
