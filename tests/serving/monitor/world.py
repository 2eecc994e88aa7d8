"""Servers that count, as sources read them; and readings by hand."""

from collections.abc import Iterable, Iterator, Mapping

from petl_vit.errors import Unreachable
from serving.monitor.look import ReferenceValues
from serving.monitor.names import START
from serving.monitor.samples import Counts, Reading, Sample

ROUTE = "digits/live"
DOMAIN = "photo"
DIGEST, DATA = "d" * 12, "a" * 12


def sample(name: str, value: float, instance: str = "one", **labels: str) -> Sample:
    return Sample(name=name, instance=instance, labels=tuple(sorted(labels.items())), value=value)


class Server:
    """One server's counters and gauges, in memory."""

    def __init__(self, instance: str = "one", *, start: float = 1.0) -> None:
        self.instance, self.start = instance, start
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def count(self, name: str, amount: float, **labels: str) -> None:
        key = (name, tuple(sorted(labels.items())))
        self._values[key] = self._values.get(key, 0.0) + amount

    def predict(
        self,
        images: int,
        *,
        route: str = ROUTE,
        domain: str = DOMAIN,
        means: Mapping[str, float] | None = None,
        pairs: Mapping[str, float] | None = None,
    ) -> None:
        """Answers images; `means` are those of methods, `pairs` shares of agreement."""
        place = {"route": route, "domain": domain}
        self.count("corolla_predictions_total", images, **place)
        for method, mean in (means or {}).items():
            self.count("corolla_estimated_predictions_total", images, method=method, **place)
            self.count("corolla_estimated_correct_total", images * mean, method=method, **place)
        if means and "confidence" in means:
            self.count("corolla_prediction_confidence_ratio_sum", images * means["confidence"], **place)
            self.count("corolla_prediction_confidence_ratio_count", images, **place)
        for pair, share in (pairs or {}).items():
            self.count("corolla_ensemble_pair_comparisons_total", images, pair=pair, **place)
            self.count("corolla_ensemble_pair_agreements_total", images * share, pair=pair, **place)

    def label(self, correct: int, incorrect: int, *, route: str = ROUTE, domain: str = DOMAIN) -> None:
        for outcome, amount in (("correct", correct), ("incorrect", incorrect)):
            self.count("corolla_feedback_total", amount, route=route, domain=domain, outcome=outcome)

    def compare_with(
        self, values: ReferenceValues | None, *, route: str = ROUTE, stale: bool = False
    ) -> None:
        """Shows a reference, in the place of any other."""
        self._values = {
            key: value for key, value in self._values.items() if not key[0].startswith("corolla_reference")
        }
        for one in reference_samples(values, route=route, stale=stale):
            self._values[one.name, one.labels] = one.value

    def restart(self, start: float, *, keep_labels: bool = True) -> None:
        self.start = start
        self._values = {
            key: value for key, value in self._values.items() if keep_labels and "feedback" in key[0]
        }

    def samples(self) -> Iterator[Sample]:
        yield sample(START, self.start, self.instance)
        for (name, labels), value in self._values.items():
            yield Sample(name=name, instance=self.instance, labels=labels, value=value)


def values(
    *,
    digest: str = DIGEST,
    images: int = 1000,
    accuracy: float = 0.9,
    confidence: float = 0.9,
    members: Mapping[str, float] | None = None,
    pairs: Mapping[str, float] | None = None,
    estimates: Mapping[str, float] | None = None,
    rates: Mapping[str, float] | None = None,
) -> ReferenceValues:
    return ReferenceValues(
        digest=digest,
        data=DATA,
        reference="r" * 12,
        images=images,
        accuracy=accuracy,
        confidence=confidence,
        member_accuracies=members or {},
        pair_agreements=pairs or {},
        estimates=estimates or {"atc_mc": accuracy, "atc_ne": accuracy},
        rates=rates or {},
    )


def reference_samples(
    reference: ReferenceValues | None, *, route: str = ROUTE, stale: bool = False, instance: str = "one"
) -> Iterator[Sample]:
    """As a server shows it."""

    def gauge(name: str, value: float, **labels: str) -> Sample:
        return sample(f"corolla_reference_{name}", value, instance, route=route, **labels)

    yield gauge("stale", float(stale))
    if reference is None:
        return
    yield gauge("info", 1.0, digest=reference.digest, data=reference.data, reference=reference.reference)
    yield gauge("images", float(reference.images))
    yield gauge("accuracy_ratio", reference.accuracy)
    if reference.confidence is not None:
        yield gauge("confidence_ratio", reference.confidence)
    for name, mapping, label in (
        ("member_accuracy_ratio", reference.member_accuracies, "member"),
        ("pair_agreement_ratio", reference.pair_agreements, "pair"),
        ("estimate_ratio", reference.estimates, "method"),
        ("rate_ratio", reference.rates, "indicator"),
    ):
        yield from (gauge(name, value, **{label: key}) for key, value in mapping.items())


class Servers:
    """A source over servers in memory; `down` is why it does not answer."""

    name = "servers"
    step_s = 0.0

    def __init__(self, *servers: Server, origin: float = 0.0) -> None:
        self.servers, self.origin = list(servers), origin
        self.now, self.down = 1000.0, ""
        self.past: list[Reading] = []

    def read(self) -> Reading:
        if self.down:
            raise Unreachable(self.down)
        return self.reading()

    def reading(self, problems: Iterable[str] = ()) -> Reading:
        samples = tuple(one for server in self.servers for one in server.samples())
        return Reading(at=self.now, samples=samples, problems=tuple(problems))

    def history(self, since: float) -> Iterator[Reading]:
        if self.down:
            raise Unreachable(self.down)
        return (reading for reading in self.past if reading.at > since)


def counted(server: Server) -> Counts:
    """All that a server counted, as a window has it."""
    counts = Counts()
    for one in server.samples():
        if one.name.startswith("corolla_"):
            counts.add(one.name, one.labels, one.value)
    return counts
