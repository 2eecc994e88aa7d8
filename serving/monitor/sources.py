"""Readings of one server: over HTTP from its metrics port, or from its registry within its process."""

import time
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import urlencode, urlsplit

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from petl_vit.errors import Unreachable
from serving.client.token import Bearer
from serving.monitor import http
from serving.monitor.names import LABELS, NAMES
from serving.monitor.samples import Labels, Reading, Sample

Clock = Callable[[], float]


class ServerSource:
    """The metrics port of one server. Of what it counted before, it knows the sums alone.

    Args:
        url: `http://HOST:PORT`, `https://HOST:PORT`, `HOST:PORT`, or with a path; without one it is /metrics.
        bearer: The token that the port asks for, if it does.
        trust: Of a URL of https; None trusts the system's authorities.

    Raises:
        InvalidInput: It is not a URL.
    """

    origin = 0.0
    step_s = 0.0

    def __init__(
        self,
        url: str,
        *,
        bearer: Bearer | None = None,
        trust: http.Trust | None = None,
        clock: Clock = time.time,
    ) -> None:
        self._bearer, self._trust = bearer, trust
        base = http.base_url(url, "server_metrics")
        self.name = http.shown(base if urlsplit(base).path else f"{base}/metrics")
        self._url = f"{base if urlsplit(base).path else f'{base}/metrics'}?{_QUERY}"
        self._instance = urlsplit(base).netloc.rpartition("@")[2]
        self._clock = clock

    def read(self) -> Reading:
        """See `Source`."""
        accept = {"Accept": "text/plain; version=0.0.4"}
        text = http.read(self._url, headers=accept, bearer=self._bearer, trust=self._trust)
        at = self._clock()
        try:
            samples = tuple(_samples(text_string_to_metric_families(text.decode()), self._instance))
        except (ValueError, KeyError, IndexError) as error:
            raise Unreachable(
                f"{self.name} does not answer with metrics", remedy="is it the metrics port of a server?"
            ) from error
        return Reading(at=at, samples=samples, problems=_missing(self.name, samples))

    def history(self, since: float) -> Iterator[Reading]:
        """Nothing: a server keeps no history."""
        return iter(())


class OwnSource:
    """The registry of the process that this runs in."""

    name = "this server"
    origin = 0.0
    step_s = 0.0

    def __init__(self, registry: Collector, *, clock: Clock = time.time) -> None:
        self._registry, self._clock = registry, clock

    def read(self) -> Reading:
        """See `Source`."""
        return Reading(at=self._clock(), samples=tuple(_samples(self._registry.collect(), "self")))

    def history(self, since: float) -> Iterator[Reading]:
        """Nothing: a registry keeps no history."""
        return iter(())


_QUERY = urlencode([("name[]", name) for name in sorted(NAMES)])


def sorted_labels(labels: dict[str, str]) -> Labels:
    """Those that the server gave."""
    return tuple(sorted((name, value) for name, value in labels.items() if name in LABELS))


def _samples(families: Iterable[Metric], instance: str) -> Iterator[Sample]:
    for family in families:
        for sample in family.samples:
            if sample.name in NAMES:
                yield Sample(
                    name=sample.name,
                    instance=instance,
                    labels=sorted_labels(sample.labels),
                    value=sample.value,
                )


def _missing(name: str, samples: tuple[Sample, ...]) -> tuple[str, ...]:
    if any(sample.name.startswith("corolla_") for sample in samples):
        return ()
    return (f"{name} has no metrics of Corolla; is it the metrics port of a server?",)
