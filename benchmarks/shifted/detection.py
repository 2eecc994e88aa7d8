"""After how many images an alarm is raised, on streams that shift at a known image and on calm ones.

The counters of every look go to the evaluator's own alarms (`serving.monitor.alarms`), as it passes them on.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.shifted.grid import Grid
from benchmarks.shifted.served import DOMAIN, Served, Traces
from benchmarks.shifted.windows import AT, FROZEN_SHARE
from serving.monitor.alarm_settings import AlarmSettings, SettingsByRoute
from serving.monitor.alarms import SequentialAlarms
from serving.monitor.look import Judgement, Look, ReferenceValues
from serving.monitor.references import references
from serving.monitor.samples import Counts, Reading
from serving.monitor.status import Alarm
from training.measure.arrays import Floats

CALM = 1000
"""Images before the shift."""
STEPS = (*[20] * 50, *[100] * 20)
"""Images of each look after it."""
LABEL_SHARE = 0.1
"""Of the images that get a true label."""


@dataclass(frozen=True, kw_only=True)
class Raised:
    """What was raised on one stream.

    Attributes:
        alarms: By kind, the first one.
        images: By kind, after how many images since the shift; of a stream without one, since its start.
    """

    route: str
    domain: str
    seed: int
    alarms: Mapping[str, Alarm]
    images: Mapping[str, int]


class Watching:
    """The alarms over one route's counters."""

    def __init__(self, served: Served, reference: ReferenceValues | None = None) -> None:
        self._name, self._at = served.name, AT
        found = reference or reference_values(served)
        self._references = {served.name: found}
        # Here labels are of a share of the images that is drawn by chance.
        self._alarms = SequentialAlarms(SettingsByRoute(default=AlarmSettings(labels="all")))

    def look(self, traces: Traces, sums: Floats) -> Judgement:
        """Counts [S] what was added since the last look."""
        self._at += 1
        look = Look(at=self._at, increase=_counts(traces, sums), references=self._references)
        return self._alarms.step(look)[self._name, DOMAIN]


def reference_values(served: Served) -> ReferenceValues:
    """What the evaluator knows of a route's reference."""
    return references(Reading(at=AT, samples=tuple(served.gauges()))).usable[served.name]


def detections(served: Served, calm: Traces, shifted: Traces, seeds: int) -> Iterator[Raised]:
    """Streams that are calm for `CALM` images, and then shift."""
    for seed in range(seeds):
        random = np.random.default_rng([seed, *shifted.name.encode()])
        watching = Watching(served)
        before = calm.drawn(random, CALM // 10, looks=10, frozen=FROZEN_SHARE, labelled=LABEL_SHARE)
        judged = [watching.look(calm, sums) for sums in before][-1]
        alarms: dict[str, Alarm] = {one.kind: one for one in judged.alarms}
        images: dict[str, int] = dict.fromkeys(alarms, 0)
        passed = 0
        for step in STEPS:
            passed += step
            (sums,) = shifted.drawn(random, step, frozen=FROZEN_SHARE, labelled=LABEL_SHARE)
            for alarm in watching.look(shifted, sums).alarms:
                if alarms.setdefault(alarm.kind, alarm) is alarm:
                    images.setdefault(alarm.kind, passed)
            if len(alarms) == 2:
                break
        yield Raised(route=served.route.label, domain=shifted.name, seed=seed, alarms=alarms, images=images)


def _counts(traces: Traces, sums: Floats) -> Counts:
    counts = Counts()
    for (name, labels), amount in zip(traces.series, sums.tolist(), strict=True):
        if amount:
            counts.add(name, labels, amount)
    return counts


def table(found: Sequence[Raised], accuracies: Mapping[str, float], title: str) -> Grid:
    """One row for each domain and route: after how many images of the shift."""
    calm = next(iter(accuracies.values()))
    rows = []
    for domain, accuracy in list(accuracies.items())[1:]:
        own = [one for one in found if one.domain == domain]
        leading = Counter(one.alarms["shift"].indicator for one in own if "shift" in one.alarms)
        rows.append(
            (
                domain,
                f"{100 * accuracy:.1f}",
                f"{100 * (calm - accuracy):.1f}",
                *(cell for kind in ("shift", "accuracy") for cell in _cells(own, kind)),
                ", ".join(f"{name} {count / len(own):.0%}" for name, count in leading.most_common(2)),
            )
        )
    columns = (
        "domain",
        "accuracy",
        "drop",
        "shift: images",
        "within 1,000",
        f"labels of {LABEL_SHARE:.0%}: images",
        "within 1,000",
        "leading indicator",
    )
    return Grid(title=title, columns=columns, rows=rows)


def _cells(own: Sequence[Raised], kind: str) -> tuple[str, str]:
    """When a kind of alarm was raised, the median with 5 % and 95 %; and how often within 1,000 images."""
    images = [one.images.get(kind, np.inf) for one in own]
    low, middle, high = np.percentile(images, [5, 50, 95], method="closest_observation")
    if np.isinf(middle):
        return f"not within {sum(STEPS):,}", f"{np.mean(np.array(images) <= 1000):.0%}"
    text = f"{middle:.0f} ({low:.0f} to {high:.0f})".replace("inf", "never")
    return text, f"{np.mean(np.array(images) <= 1000):.0%}"
