"""What the server counts, as events of the server: a call, a batch, an answered image, a true label.

`definitions` says what each metric means, `series` how it is stored, `label_values` which label values exist.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector

from model_store.format.reference import Reference
from serving.metrics.additions import Additions
from serving.metrics.answers import Answered, Answers
from serving.metrics.callers import Callers
from serving.metrics.cascades import Cascades
from serving.metrics.definitions import DEFINITIONS
from serving.metrics.feedback_definitions import KEPT
from serving.metrics.label_requests import Reason
from serving.metrics.label_values import (
    ADHOC,
    ENSEMBLE,
    FROZEN,
    MAX_PLACES,
    MAX_ROUTES,
    OTHER,
    RESERVED_ROUTES,
    UNKNOWN,
    ZERO_PLACES,
    Domains,
    RouteLabels,
    member_labels,
    of_route,
)
from serving.metrics.references import References
from serving.metrics.scoring import Scoring
from serving.metrics.series import Key, Labels, Series

DROPS = ("expired", "cancelled", "unmeetable", "full_rows", "full_bytes")


class Metrics:
    """What one server counts. Its methods may be called from any thread; none raises on odd numbers.

    `route` and `member` are labels as `add_route` has them; any other route counts as `adhoc`.

    Args:
        zero_places: So many routes in a domain are shown at zero before their first image, so that `rate()`
            sees that image; the series of any other appear with it.
        kept: What was counted of labels before; None hides what is counted of them until `restore`, as a
            counter that began at zero again would be read as so many new labels.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        domains: Domains | None = None,
        *,
        zero_places: int = ZERO_PLACES,
        kept: Mapping[Key, float] | None = MappingProxyType({}),
    ) -> None:
        self.registry = registry
        self.domains = domains or Domains()
        self.known_routes: dict[str, tuple[str, ...]] = {}
        self._series = Series(DEFINITIONS)
        self._lock = self._series.lock
        self._numbers = self._series.numbers
        self._histograms = self._series.histograms
        self._methods: set[str] = set()
        self._zero_places = zero_places
        self._places: dict[tuple[str, str], RouteLabels] = {}
        self._adapters: dict[tuple[str, str], Labels] = {}
        self._answers = Answers(self._series)
        self._cascades = Cascades(self._series)
        self._references = References(self._series)
        self.callers = Callers(self._series)
        self._series.keep(kept or {})
        if kept is None:
            self._series.hidden = frozenset(definition.name for definition in KEPT)
        registry.register(self._series)
        ProcessCollector(registry=registry)
        with self._lock:
            self._create_unlabelled()
            self._create_route(ADHOC, ())

    # Requests and batches

    def add_methods(self, methods: Collection[str], codes: Collection[str]) -> None:
        """Shows the series of a protocol's calls at zero, by their names and the names of status codes."""
        with self._lock:
            self._methods.update(methods)
            for method in methods:
                self._histograms["corolla_request_duration_seconds"].create((method,))
                for code in codes:
                    self._numbers["corolla_requests_total"].create((method, code))

    def request(self, method: str, code: str, seconds: float) -> None:
        """One call was answered with a gRPC status code, by its name; of a method that was added."""
        if method not in self._methods:
            return  # a caller can make up any number of them
        with self._lock:
            self._numbers["corolla_requests_total"].add((method, code))
            self._histograms["corolla_request_duration_seconds"].observe(seconds, (method,))

    def images(self, *, ok: int = 0, invalid: int = 0) -> None:
        """Images of one request that were answered, and that could not be."""
        with self._lock:
            self._numbers["corolla_images_total"].add(("ok",), ok)
            self._numbers["corolla_images_total"].add(("invalid",), invalid)

    def set_queue_bytes(self, size: int) -> None:
        with self._lock:
            self._numbers["corolla_queue_bytes"].set(size)

    def dropped(self, reason: str) -> None:
        """One image is not computed; `reason` is one of `DROPS`."""
        with self._lock:
            self._numbers["corolla_queue_dropped_total"].add((reason,))

    def out_of_memory(self) -> None:
        """One forward pass did not fit into memory."""
        with self._lock:
            self._numbers["corolla_out_of_memory_total"].add()

    def set_queue_rows(self, rows: int) -> None:
        with self._lock:
            self._numbers["corolla_queue_rows"].set(rows)

    def queued(self, seconds: float) -> None:
        """One row left the queue after this time."""
        with self._lock:
            self._histograms["corolla_queue_duration_seconds"].observe(seconds)

    def batch(self, rows: int, adapters: int, seconds: float) -> None:
        """One forward pass ran."""
        with self._lock:
            self._histograms["corolla_batch_rows"].observe(rows)
            self._histograms["corolla_batch_adapters"].observe(adapters)
            self._histograms["corolla_forward_duration_seconds"].observe(seconds)

    # Predictions

    def add_route(
        self, name: str, members: Sequence[str], classes: Sequence[str] = (), *, void: bool | None = None
    ) -> str:
        """Makes a named route known, or gives a known one its new members.

        Args:
            classes: Those of its task.
            void: Of a cascade, whether its thresholds do not apply; None for any other route.

        Returns:
            The route's label: its name, or `other` when there are too many routes or the name is taken.
        """
        labels = member_labels(members)
        if self.known_routes.get(name) == labels and self._cascades.void.get(name) is void:
            return name
        with self._lock:
            full = len(self.known_routes) >= MAX_ROUTES and name not in self.known_routes
            if full or name in RESERVED_ROUTES:
                self._create_route(OTHER, ())
                return OTHER
            if (before := self.known_routes.get(name)) != labels:
                for member in set(before or ()) - set(labels):
                    self._forget_adapter(name, member)
                self._references.show(name, labels, None, "")
            self.known_routes[name] = labels
            self._cascades.mark(name, void)
            self._answers.know(name, classes)
            self._create_route(name, labels)
            return name

    def scoring(self, route: str, digest: str) -> Scoring | None:
        """What answers are scored by, where there is a reference of exactly what made them.

        Args:
            digest: Of what answered (`model_store.resolution.reference.referenced_route`).
        """
        scoring = self._references.scoring.get(route)
        return scoring if scoring is not None and scoring.route == digest else None

    def add_domain(self, name: str) -> bool:
        """Makes a domain known, and shows its series at zero; returns whether it is new.

        Raises:
            InvalidInput: It is not a valid name, or there are as many as there may be.
        """
        with self._lock:
            if not self.domains.is_new(name):
                return False
            self.domains.add(name)
            for route in {route for route, _ in self._places}:
                self._create_route(route, self.known_routes.get(route, ()))
            return True

    def predictions(self, route: str, domain: str, images: Sequence[Answered]) -> None:
        """Images of one request were answered; a scrape shows all of them or none.

        Args:
            domain: A label from `Domains.label`.
        """
        labels = self._places.get((route, domain)) or self.place(route, domain)
        with self._lock:
            for image in images:
                self._answers.count(labels, image)

    def prediction(self, *, route: str, domain: str, **image: Any) -> None:
        """One image was answered; see `Answered`."""
        self.predictions(route, domain, [Answered(**image)])

    def frozen(self, *, route: str, domain: str, override: bool, distance: float | None) -> None:
        """The frozen backbone answered one image of a named route too; see `Answers.frozen`."""
        labels = self._places.get((route, domain)) or self.place(route, domain)
        with self._lock:
            self._answers.frozen(labels, override=override, distance=distance)

    def cascade(self, *, route: str, domain: str, asked: int, as_all: bool | None) -> None:
        """A cascade answered one image by so many members.

        Args:
            as_all: Where it was put to all members, whether they answer the same; None where it was not.
        """
        base = (self._places.get((route, domain)) or self.place(route, domain)).base
        with self._lock:
            self._cascades.count(base, asked, as_all)

    def invalid_scores(self, route: str, member: str) -> None:
        """A member of a route, or the frozen backbone, gave NaN or infinite scores for one image."""
        route = self.label_of(route)
        members = self.known_routes.get(route)
        known = members is not None and member in (*members, FROZEN)
        with self._lock:
            self._numbers["corolla_invalid_scores_total"].add((route, member if known else ENSEMBLE))

    # Labels

    def label_requested(self, route: str, domain: str, reason: Reason) -> None:
        """One answer asked for its true label."""
        base = self.place(route, domain).base
        with self._lock:
            self._numbers["corolla_label_requests_total"].add((*base, reason))

    def add(self, additions: Additions) -> None:
        """Shows what labels added, once they and it are kept."""
        with self._lock:
            self._series.add(additions)
            for (name, labels), prediction_id in additions.examples.items():
                self._numbers[name].show(labels, prediction_id)

    def restore(self, kept: Mapping[Key, float]) -> None:
        """Shows what was kept of labels, in place of what is shown of them."""
        with self._lock:
            self._series.keep(kept)
            self._series.hidden = frozenset()

    # State

    def set_ready(self, ready: bool) -> None:
        with self._lock:
            self._numbers["corolla_ready"].set(int(ready))

    def set_tasks(self, count: int) -> None:
        """The event loop has this number of tasks."""
        with self._lock:
            self._numbers["corolla_event_loop_tasks"].set(count)

    def set_heap(self, used: int, free: int) -> None:
        """The C library holds so many bytes that are in use, and so many that are not."""
        with self._lock:
            self._numbers["corolla_heap_bytes"].set(used, ("used",))
            self._numbers["corolla_heap_bytes"].set(free, ("free",))

    def set_registered(self, adapters: int, size: int) -> None:
        """This number of adapters is in host memory, and takes `size` bytes."""
        with self._lock:
            self._numbers["corolla_registered_adapters"].set(adapters)
            self._numbers["corolla_registered_bytes"].set(size)

    def set_slots(self, adapters: int, size: int) -> None:
        """This number of adapters is in a slot, and takes `size` bytes."""
        with self._lock:
            self._numbers["corolla_slot_adapters"].set(adapters)
            self._numbers["corolla_slot_bytes"].set(size)

    def adapter_loaded(self, seconds: float) -> None:
        """One adapter was loaded from the store."""
        with self._lock:
            self._histograms["corolla_adapter_load_duration_seconds"].observe(seconds)

    def adapter_evicted(self) -> None:
        """One adapter left host memory to make room for another."""
        with self._lock:
            self._numbers["corolla_adapter_evictions_total"].add()

    def precision_checked(self, result: str, difference: float | None) -> None:
        """An adapter was compared with fp32: `within` or `beyond` the bound, or `failed`."""
        with self._lock:
            self._numbers["corolla_precision_checks_total"].add((result,))
            if difference is not None and math.isfinite(difference):
                self._histograms["corolla_precision_difference_ratio"].observe(difference)

    def set_adapter(self, *, route: str, member: str, version: str, method: str, digest: str) -> None:
        """A member of a named route resolves to this adapter, which replaces the one shown before."""
        labels = (route, member, version, method, digest)
        with self._lock:
            self._forget_adapter(route, member)
            if member in self.known_routes.get(route, ()):
                self._adapters[route, member] = labels
                self._numbers["corolla_adapter_info"].set(1, labels)

    def _forget_adapter(self, route: str, member: str) -> None:
        labels = self._adapters.pop((route, member), None)
        if labels is not None:
            del self._numbers["corolla_adapter_info"].values[labels]

    def set_temperature(self, route: str, temperature: float) -> None:
        """A named route answers by this temperature."""
        with self._lock:
            if route in self.known_routes:
                self._numbers["corolla_temperature_ratio"].set(temperature, (route,))

    def set_reference(self, route: str, reference: Reference | None, stale: str = "") -> None:
        """A named route is compared with this reference from now on, or with none.

        Args:
            stale: Why it is not of what answers now, so that nothing is estimated by it; else empty.
        """
        with self._lock:
            if route in self.known_routes:
                self._references.show(route, self.known_routes[route], reference, stale)

    def set_row_buffers(self, size: int) -> None:
        """The buffers for rows take `size` bytes between forward passes."""
        with self._lock:
            self._numbers["corolla_row_buffer_bytes"].set(size)

    def set_backbone(self, *, digest: str, architecture: str, size: int) -> None:
        """This backbone is resident; its parameters take `size` bytes."""
        with self._lock:
            self._numbers["corolla_backbone_bytes"].set(size)
            self._numbers["corolla_backbone_info"].set(1, (digest, architecture))

    def set_build(self, *, version: str, python: str, torch: str, device: str, precision: str) -> None:
        labels = (version, python, torch, device, precision)
        with self._lock:
            self._numbers["corolla_build_info"].set(1, labels)

    # Label values

    def label_of(self, route: str) -> str:
        """The label of a route: `adhoc` for one that is not known."""
        return route if route in self.known_routes or route == OTHER else ADHOC

    def place(self, route: str, domain: str) -> RouteLabels:
        """The label values of a route in a domain, whose series are shown from now on.

        Unknown ones count as `adhoc` and `other`, and so does the route `other` where too many are shown.
        """
        place = (self.label_of(route), self.domains.label(domain))
        if place not in self._places and len(self._places) >= MAX_PLACES:
            place = (OTHER, place[1])
        if place not in self._places:
            with self._lock:
                self._create_place(*place, self.known_routes.get(place[0], ()))
        return self._places[place]

    def _create_unlabelled(self) -> None:
        for number in self._series.numbers.values():
            if not number.definition.labels:
                number.create(())
        for histogram in self._series.histograms.values():
            if not histogram.definition.labels:
                histogram.create(())
        for status in ("ok", "invalid"):
            self._numbers["corolla_images_total"].create((status,))
        for result in ("within", "beyond", "failed"):
            self._numbers["corolla_precision_checks_total"].create((result,))
        for reason in DROPS:
            self._numbers["corolla_queue_dropped_total"].create((reason,))
        self._numbers["corolla_feedback_submissions_total"].create((UNKNOWN, "invalid_token"))

    def _create_route(self, route: str, members: tuple[str, ...]) -> None:
        """Shows a route with its members in the domains where it is shown, or in all while few places are."""
        shown = [domain for domain in self.domains.names if (route, domain) in self._places]
        new = len(self.domains.names) - len(shown)
        fits = len(self._places) + new <= self._zero_places
        for domain in self.domains.names if fits else shown:
            self._create_place(route, domain, members)

    def _create_place(self, route: str, domain: str, members: tuple[str, ...]) -> None:
        """Shows all series of a route in a domain at once, for a ratio needs both of its counters."""
        labels = self._places[route, domain] = RouteLabels.of(route, domain, members)
        named, cascade = route in self.known_routes, route in self._cascades.void
        counters, histograms = labels.shown(named=named, cascade=cascade)
        for name, all_values in counters.items():
            for values in all_values:
                self._numbers[name].create(values)
        for name in histograms:
            self._histograms[name].create(labels.base)
        self._create_undivided(route, members)

    def _create_undivided(self, route: str, members: tuple[str, ...]) -> None:
        """Shows the series of a route that no domain divides."""
        self._histograms["corolla_feedback_delay_seconds"].create((route,))
        for name, all_values in of_route(route, members).items():
            for values in all_values:
                self._numbers[name].create(values)
        self._answers.create(route, members)
