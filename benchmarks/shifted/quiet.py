"""False alarms: streams of held-out images beside a reference that was made on the others, split at random.

Two kinds of streams. `once`: every image of the other half comes once, in random order; reference and stream
are then parts of one exchangeable sequence, which is what the bound on false alarms rests on. `drawn`: many
more images, drawn from the other half with replacement. These are independent of each other, but their mean
is that of this half and not of all such images: where chance has made the half harder than the reference, a
long stream shows it, and the alarm is right about the stream.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from benchmarks.shifted.detection import LABEL_SHARE, Raised, Watching
from benchmarks.shifted.domains import Domain
from benchmarks.shifted.grid import Grid
from benchmarks.shifted.served import Served, Traces, reference_of
from benchmarks.shifted.windows import FROZEN_SHARE
from petl_vit.precision import Precision
from serving.monitor.status import Alarm
from training.measure.arrays import Floats
from training.measure.candidate import Candidate


@dataclass(frozen=True, kw_only=True)
class Quiet:
    """What became of the streams of one split.

    Attributes:
        stream: `once` or `drawn`.
        images: Of the stream.
        worse: How much less accurate the stream's half is than the reference's.
        greatest: Evidence of a shift, as its logarithm to base 10.
    """

    route: str
    stream: str
    images: int
    worse: float
    raised: Raised
    greatest: float


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How long the streams are.

    Attributes:
        images: Of the drawn ones.
        look: Of one look at a drawn one; `once` is looked at every twenty images.
    """

    splits: int
    images: int = 100_000
    look: int = 2000


def quiet(route: Candidate, heldout: Domain, sizes: Sizes, precision: Precision) -> Iterator[Quiet]:
    """Both streams of every split."""
    every = Served(route, reference_of(route, heldout, precision)).traces(heldout)
    for seed in range(sizes.splits):
        random = np.random.default_rng([seed, 7])
        places = random.permutation(len(heldout))
        first, second = places[: len(places) // 2], places[len(places) // 2 :]
        served = Served(route, reference_of(route, heldout.part(first), precision))
        traces = served.rescored(every.part(second), heldout.part(second))
        worse = served.reference.accuracy - float(traces.correct.mean())
        streams = {
            "once": (len(second), _once(traces, random)),
            "drawn": (
                sizes.images,
                traces.drawn(
                    random,
                    sizes.look,
                    looks=sizes.images // sizes.look,
                    frozen=FROZEN_SHARE,
                    labelled=LABEL_SHARE,
                ),
            ),
        }
        for name, (images, looks) in streams.items():
            raised, greatest = _watched(served, traces, looks, seed, images // len(looks))
            yield Quiet(
                route=route.label,
                stream=name,
                images=images,
                worse=worse,
                raised=raised,
                greatest=greatest,
            )


def _once(traces: Traces, random: np.random.Generator) -> Floats:
    """[looks, S]: every image once, twenty at a time."""
    looks = np.arange(len(traces)) // 20
    times = np.zeros((looks[-1] + 1, len(traces)), dtype=np.int64)
    times[looks, random.permutation(len(traces))] = 1
    return traces.sums(
        times, frozen=random.binomial(times, FROZEN_SHARE), labelled=random.binomial(times, LABEL_SHARE)
    )


def _watched(served: Served, traces: Traces, looks: Floats, seed: int, step: int) -> tuple[Raised, float]:
    watching, alarms, images, greatest = Watching(served), dict[str, Alarm](), dict[str, int](), 0.0
    for number, sums in enumerate(looks, 1):
        judged = watching.look(traces, sums)
        greatest = max(greatest, judged.evidence["shift"])
        for alarm in judged.alarms:
            if alarms.setdefault(alarm.kind, alarm) is alarm:
                images.setdefault(alarm.kind, number * step)
    raised = Raised(route=served.route.label, domain=traces.name, seed=seed, alarms=alarms, images=images)
    return raised, greatest


def table(found: Sequence[Quiet], alpha: float, title: str) -> Grid:
    """One row for each route, stream and kind of alarm."""
    rows = []
    for route, stream in dict.fromkeys((one.route, one.stream) for one in found):
        own = [one for one in found if (one.route, one.stream) == (route, stream)]
        for kind in ("shift", "accuracy"):
            raised = [one for one in own if kind in one.raised.alarms]
            harder = sorted(100 * one.worse for one in raised)
            rows.append(
                (
                    route,
                    stream,
                    f"{own[0].images:,}",
                    kind,
                    str(len(own)),
                    str(len(raised)),
                    f"{len(raised) / len(own):.2%} (at most {_most(len(raised), len(own)):.2%})",
                    f"{np.median(harder):.1f}" if harder else "-",
                )
            )
    columns = (
        "route",
        "stream",
        "images",
        "alarm",
        "streams",
        "alarms",
        "rate (95 % bound)",
        "points that the stream's half is worse by, where it alarmed",
    )
    note = f"alpha = {alpha:g} is promised for both kinds of alarm together, for streams like `once`."
    return Grid(title=title, columns=columns, rows=rows, note=note)


def _most(count: int, of: int) -> float:
    """The upper confidence bound of Clopper and Pearson at 95 %, one-sided."""
    return 1.0 if count == of else float(beta.ppf(0.95, count + 1, of - count))
