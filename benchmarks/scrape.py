"""What a scrape costs, and how long the counting of an answer waits meanwhile.

    python -m benchmarks.scrape

Metrics of many named routes of six members in many domains, of which few were counted, scraped over HTTP as
Prometheus does. `all at zero` shows every series from the start, as was done before series appeared when they
are first counted; `as counted` is what a server does. CPU time is that of the whole process, in which nothing
else runs. Then a thread counts an answer every millisecond while scrapes go on: `late_ms` is how late it is,
at the 99th percentile.
"""

import statistics
import time
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from threading import Thread

from prometheus_client import CollectorRegistry
from rich.table import Table

from benchmarks.report import Value, emit, parser, progress
from serving.metrics.events import Metrics
from serving.metrics.label_values import MAX_DOMAINS, MAX_PLACES, ZERO_PLACES, Domains
from serving.metrics.port import MetricsPort

MEMBERS = ("lora", "ssf", "bitfit", "convpass", "vpt-deep", "full")
EVERY_S = 0.001


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a server has: routes, domains, how many of their places were counted, whether all are shown."""

    name: str
    routes: int
    counted: int
    all_at_zero: bool = False


VARIANTS = (
    Variant(name="before", routes=64, counted=50, all_at_zero=True),
    Variant(name="after", routes=64, counted=50),
    Variant(name="thousand", routes=1000, counted=50),
    Variant(name="full", routes=1000, counted=MAX_PLACES),
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one scrape.

    Attributes:
        kib: Sent, compressed.
        late_ms: How late a thread was that counts an answer every millisecond meanwhile; 99th percentile.
    """

    samples: int
    kib: float
    cpu_ms: float
    late_ms: float


def count(metrics: Metrics, place: int, routes: int, domains: Sequence[str]) -> None:
    """Counts one image of the place of that number."""
    metrics.prediction(
        route=f"task/route-{place % routes}",
        domain=domains[place // routes % len(domains)],
        predicted=1,
        votes=[1, 1, 1, 2, 2, 3],
        confidence=0.7,
        entropy=0.5,
        mutual_information=0.1,
        agreement=0.5,
    )


def measured(variant: Variant, domains: int, rounds: int) -> Cost:
    """The cost of a scrape of a server like this."""
    known = Domains([f"domain-{number}" for number in range(domains)])
    places = variant.routes * len(known.names)
    metrics = Metrics(
        CollectorRegistry(), known, zero_places=2 * places if variant.all_at_zero else ZERO_PLACES
    )
    for number in range(variant.routes):
        name = metrics.add_route(f"task/route-{number}", MEMBERS)
        for member in MEMBERS:
            metrics.set_adapter(route=name, member=member, version="1", method=member, digest="0" * 12)
    for place in range(variant.counted):
        count(metrics, place, variant.routes, known.names)
    with closing(MetricsPort(metrics.registry, port=0)) as port:
        url = f"http://127.0.0.1:{port.port}/metrics"
        samples = sum(not line.startswith(b"#") for line in _read(url, "identity").splitlines())
        cpu = []
        for _ in range(rounds):
            start = time.process_time()
            packed = _read(url, "gzip")
            cpu.append(time.process_time() - start)
        scraper = Thread(target=lambda: [_read(url, "gzip") for _ in range(rounds)])
        late = _late(metrics, variant, known.names, scraper)
    return Cost(
        samples=samples,
        kib=len(packed) / 1024,
        cpu_ms=1000 * statistics.median(cpu),
        late_ms=1000 * late,
    )


def _late(metrics: Metrics, variant: Variant, domains: Sequence[str], scraper: Thread) -> float:
    """Seconds by which the counting of answers is late while a thread scrapes, at the 99th percentile."""
    late = [0.0]
    scraper.start()
    while scraper.is_alive():
        start = time.perf_counter()
        time.sleep(EVERY_S)
        count(metrics, len(late) % variant.counted, variant.routes, domains)
        late.append(time.perf_counter() - start - EVERY_S)
    scraper.join()
    return sorted(late)[int(0.99 * len(late))]


def _read(url: str, encoding: str) -> bytes:
    request = urllib.request.Request(url, headers={"Accept-Encoding": encoding})
    with urllib.request.urlopen(request, timeout=300) as answer:
        text: bytes = answer.read()
        return text


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    flags.add_argument("--domains", type=int, default=MAX_DOMAINS)
    flags.add_argument("--architecture", help="of no use here; every benchmark takes it")
    flags.add_argument("--rounds", type=int, default=None)
    chosen = flags.parse_args(given)
    rounds = chosen.rounds or (3 if chosen.quick else 9)
    table = Table("", "routes", "domains", "places counted", "samples", "KiB", "CPU ms", "late ms")
    figures: dict[str, Value] = {}
    for variant in VARIANTS:
        progress(f"{variant.name}: {variant.routes} routes")
        cost = measured(variant, chosen.domains, rounds)
        table.add_row(
            "all at zero" if variant.all_at_zero else "as counted",
            f"{variant.routes:,}",
            str(chosen.domains + 2),
            f"{variant.counted:,}",
            f"{cost.samples:,}",
            f"{cost.kib:,.0f}",
            f"{cost.cpu_ms:,.0f}",
            f"{cost.late_ms:.1f}",
        )
        figures[variant.name] = {
            "samples": cost.samples,
            "kib": cost.kib,
            "cpu_ms": cost.cpu_ms,
            "late_ms": cost.late_ms,
        }
    emit("scrape", [table], figures)


if __name__ == "__main__":
    main()
