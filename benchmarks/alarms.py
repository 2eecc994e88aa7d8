"""How often alarms are false, and how many images they need, beside rules with a fixed window.

    python -m benchmarks.alarms --quick
    python -m benchmarks.alarms

Simulated streams of images that are like the reference: every alarm is false. `false_alarms_known`: of the
evidence itself, at 1 / alpha, where the mean is known and is exactly what it may be at most.
`false_alarms_route`: of a whole route, whose five indicators are compared with 2,000 reference images of
their own, without any margin. Both must be at most `bound`, which a probability of alpha exceeds in one of a
hundred such experiments. Bursts are streams where every image comes 20 times in a row, with `block` 20 and
without.

Then an indicator rises from 5 % by 1 to 20 points after up to a million images of quiet, and images are
counted until the alarm, at default settings: one domain, and one of five indicators rises. Beside it, all
with the same 10,000 reference images: a z-test of the last 1,000 images, every 1,000 images, at the usual 1 %
(z 2.33) and with a margin of 3 points, as dashboards do it; the same test, and a cumulative sum, with limits
that were found by simulation, so that they are false in alpha of the streams of this length too, but in more
of longer ones. Last, errors rise, and labels are counted until the alarm of accuracy. Takes less than three
minutes of CPU; --quick takes seconds.
"""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table
from scipy import stats

from benchmarks.alarm_streams import (
    WINDOW,
    Cusum,
    EProcess,
    Reference,
    Rule,
    ZTest,
    highest,
    images_to_alarm,
    looks,
    open_to,
)
from benchmarks.report import Value, emit, parser, progress
from petl_vit.evidence import Array, Candidate
from serving.monitor.alarm_settings import AlarmSettings
from serving.monitor.alarms import domain_share
from serving.monitor.indicators import KINDS

RATE = 0.05
RATES = (0.02, 0.05, 0.05, 0.1, 0.2)
"""Of the five indicators of a route."""
REFERENCE, FEW = 10_000, 2_000
POINTS = (1, 2, 3, 5, 10, 20)
BURST = 20
USUAL_Z = 2.33
CUSUM_POINTS = 5
_KNOWN = (Candidate(rate=RATE),)
_SHIFT = KINDS["shift"]
_LONGEST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is simulated.

    Attributes:
        streams, images: Without a shift.
        shifted: Streams for each cell of the table.
        quiet: Images before a shift.
    """

    streams: int
    images: int
    shifted: int
    quiet: Sequence[int]


LONG = Size(streams=10_000, images=1_000_000, shifted=300, quiet=(0, 10_000, 100_000, 1_000_000))
QUICK = Size(streams=1_000, images=20_000, shifted=50, quiet=(0, 10_000))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of the rules with a fixed window, found by simulation."""

    z: float
    cusum: float


class Bench:
    """All measurements of one size."""

    def __init__(self, size: Size, settings: AlarmSettings, seed: int) -> None:
        self._size, self._settings = size, settings
        self._random, self._of_labels = np.random.default_rng(seed), np.random.default_rng((seed, 1))
        self.figures: dict[str, Value] = {}
        self.tables: list[Table] = []

    def run(self) -> None:
        """Everything, in order."""
        self._false_alarms()
        limits = self._fixed_windows()
        self._detection(limits)
        self._reference_sizes()
        self.labels()

    def _false_alarms(self) -> None:
        size, alpha = self._size, self._settings.alpha
        progress(f"{size.streams} streams of {size.images} images: the evidence")
        (known,) = highest(
            [EProcess([_KNOWN] * size.streams)],
            RATE,
            looks(size.images, step=500),
            self._random,
            size.streams,
        )
        progress("the same: five indicators held to their reference's bounds")
        merged = self._route()
        progress("bursts")
        thinned, dense = self._bursts(BURST), self._bursts(1)
        bound = int(stats.binom.ppf(0.99, size.streams, alpha))
        table = Table(
            "simulated without a shift",
            "false alarms",
            "at most",
            title=f"alpha {alpha}, {size.streams} streams",
        )
        found = {
            "known": int((known >= -math.log(alpha)).sum()),
            "route": int((merged >= self._limit()).sum()),
            "bursts_in_blocks": int((thinned >= -math.log(alpha)).sum()),
            "bursts_without": int((dense >= -math.log(alpha)).sum()),
        }
        for name, count in found.items():
            table.add_row(name, str(count), "-" if name == "bursts_without" else str(bound))
            self.figures[f"false_alarms_{name}"] = count
        self.figures |= {"streams": size.streams, "images": size.images, "alpha": alpha, "bound": bound}
        self.figures["false_alarms_within_bound"] = all(
            count <= bound for name, count in found.items() if name != "bursts_without"
        )
        self.tables.append(table)

    def _route(self) -> Array:
        """[S]: the highest merged evidence of routes with a reference each."""
        streams = self._size.streams
        rules = [EProcess(self._open(self._reference(rate, FEW, streams), margin=0.0)) for rate in RATES]
        most = np.full(streams, -np.inf)
        for n in looks(self._size.images, step=5000, fine=100):
            each = [
                rule.step(n, self._random.binomial(n, rate, streams).astype(np.float64))
                for rule, rate in zip(rules, RATES, strict=True)
            ]
            most = np.maximum(most, np.logaddexp.reduce(each) - math.log(len(RATES)))
        return most

    def _bursts(self, block: int) -> Array:
        """[S]: the highest evidence on images that come in bursts."""
        streams, rule = self._size.streams, EProcess([_KNOWN] * self._size.streams, block=block)
        most = np.full(streams, -np.inf)
        for n in looks(self._size.images // 10, step=500, fine=100):
            bursts = self._random.binomial(n // BURST, RATE, streams).astype(np.float64)
            most = np.maximum(most, rule.step(n, bursts * BURST))
        return most

    def _fixed_windows(self) -> Limits:
        size, alpha = self._size, self._settings.alpha
        progress("the same: rules with a fixed window")
        reference = self._reference(RATE, REFERENCE, size.streams)
        plain, margin = highest(
            [ZTest(reference), ZTest(reference, margin=0.03)],
            RATE,
            self._windows(),
            self._random,
            size.streams,
        )
        steps = [100] * (size.images // 100)
        (cusum,) = highest([Cusum(reference, points=CUSUM_POINTS)], RATE, steps, self._random, size.streams)
        limits = Limits(z=float(np.quantile(plain, 1 - alpha)), cusum=float(np.quantile(cusum, 1 - alpha)))
        table = Table(
            "rule", "limit", "false alarms, share of streams", title=f"fixed windows, {size.images} images"
        )
        for name, limit, values in (
            ("z", USUAL_Z, plain),
            ("z_margin", USUAL_Z, margin),
            ("z_calibrated", limits.z, plain),
            ("cusum_calibrated", limits.cusum, cusum),
        ):
            share = float((values >= limit).mean())
            table.add_row(name, f"{limit:.2f}", f"{share:.4f}")
            self.figures[f"false_share_{name}"] = share
        self.figures |= {"z_limit": limits.z, "cusum_limit": limits.cusum}
        self.tables.append(table)
        return limits

    def _detection(self, limits: Limits) -> None:
        """Median and 90 % of images to the alarm, by rise and by quiet before it."""
        streams = self._size.shifted
        reference = _usual(REFERENCE, streams)
        table = Table(
            "rule", "quiet", *(f"+{points}" for points in POINTS), title="images to the alarm: median (90 %)"
        )
        ours = EProcess(self._open(reference))
        done = 0
        for quiet in self._size.quiet:
            progress(f"rises after {quiet} images of quiet")
            for n in looks(quiet - done, step=1000, fine=1000):
                ours.step(n, self._random.binomial(n, RATE, streams).astype(np.float64))
            done = quiet
            self._row(
                table,
                "e_process",
                f"{quiet:,}",
                ours,
                self._limit() + math.log(len(_SHIFT)),
                f"e_process_quiet_{quiet}",
            )
        for name, rule, limit in (
            ("z", ZTest(reference), USUAL_Z),
            ("z_margin", ZTest(reference, margin=0.03), USUAL_Z),
            ("z_calibrated", ZTest(reference), limits.z),
            ("cusum_calibrated", Cusum(reference, points=CUSUM_POINTS), limits.cusum),
        ):
            self._row(table, name, "any", rule, limit, name)
        self.tables.append(table)

    def _reference_sizes(self) -> None:
        """As `_detection`, after 10,000 images, by how many images the reference has."""
        streams = self._size.shifted
        table = Table(
            "reference images", "quiet", *(f"+{points}" for points in POINTS), title="e_process, by reference"
        )
        for images in (360, 1000, 100_000):
            rule = EProcess(self._open(_usual(images, streams)))
            for n in looks(10_000, step=1000, fine=1000):
                rule.step(n, self._random.binomial(n, RATE, streams).astype(np.float64))
            self._row(
                table,
                f"{images}",
                "10,000",
                rule,
                self._limit() + math.log(len(_SHIFT)),
                f"e_process_reference_{images}",
            )
        self.tables.append(table)

    def labels(self) -> None:
        """Labels until the alarm of accuracy where errors rise from 5 %, after 1,000 labels of quiet."""
        streams, random, limit = self._size.shifted, self._of_labels, self._limit()
        table = Table("reference images", "+5", "+10", "+20", title="labels to the alarm of accuracy")
        for images in (360, 1000, 10_000):
            margin = self._settings.accuracy_margin
            rule = EProcess(open_to(_usual(images, streams), "error", margin=margin, most=limit))
            for n in looks(1000, step=50, fine=50):
                rule.step(n, random.binomial(n, RATE, streams).astype(np.float64))
            cells = []
            for points in (5, 10, 20):
                found = images_to_alarm(
                    copy.deepcopy(rule),
                    limit,
                    RATE + points / 100,
                    looks(min(_LONGEST, 100_000), step=50),
                    random,
                    streams,
                )
                median, cell = _summary(found)
                self.figures[f"labels_reference_{images}_plus_{points}"] = median
                cells.append(cell)
            table.add_row(f"{images:,}", *cells)
        self.tables.append(table)

    def _row(self, table: Table, name: str, quiet: str, rule: Rule, limit: float, key: str) -> None:
        cells = []
        for points in POINTS:
            after = images_to_alarm(
                copy.deepcopy(rule),
                limit,
                RATE + points / 100,
                _detecting(),
                self._random,
                self._size.shifted,
            )
            self.figures[f"{key}_plus_{points}"], cell = _summary(after)
            cells.append(cell)
        table.add_row(name, quiet, *cells)

    def _reference(self, rate: float, images: int, streams: int) -> Reference:
        return Reference(counts=self._random.binomial(images, rate, streams), images=images)

    def _open(self, reference: Reference, *, margin: float | None = None) -> list[tuple[Candidate, ...]]:
        return open_to(
            reference,
            "override",
            margin=self._settings.margin if margin is None else margin,
            most=self._limit() + math.log(len(_SHIFT)),
        )

    def _limit(self) -> float:
        """Of merged evidence, in one domain."""
        return -math.log(self._settings.alpha / len(KINDS) * domain_share(0, 1))

    def _windows(self) -> list[int]:
        return [WINDOW] * (self._size.images // WINDOW)


def _usual(images: int, streams: int) -> Reference:
    """References on which the rate is what it is."""
    return Reference(counts=np.full(streams, round(RATE * images)), images=images)


def _detecting() -> Iterator[int]:
    """Looks after a shift: every 50 images, later every 1,000."""
    yield from looks(_LONGEST, step=WINDOW, fine=50, fine_until=5000)


def _summary(images: Array) -> tuple[float | None, str]:
    """The median, None where it is not finite, and what a table says: the median, and 90 % in brackets."""
    median, most = (float(np.quantile(images, share, method="higher")) for share in (0.5, 0.9))
    return None if math.isinf(median) else median, f"{_count(median)} ({_count(most)})"


def _count(images: float) -> str:
    return "-" if math.isinf(images) else f"{images:,.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs it."""
    asked = parser(__doc__)
    asked.add_argument("--alpha", type=float, default=0.01, help="default: 0.01")
    asked.add_argument("--seed", type=int, default=0, help="default: 0")
    flags = asked.parse_args(arguments)
    began = time.process_time()
    bench = Bench(QUICK if flags.quick else LONG, AlarmSettings(alpha=flags.alpha), flags.seed)
    bench.run()
    bench.figures["cpu_s"] = time.process_time() - began
    emit("alarms", bench.tables, bench.figures, packages=("numpy", "scipy"))


if __name__ == "__main__":
    main()
