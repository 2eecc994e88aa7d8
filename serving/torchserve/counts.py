"""Our metrics as TorchServe's counters: which of them it carries, and what they grew by. No torch."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry

from serving.metrics.definitions import DEFINITIONS, SECTIONS
from serving.metrics.series import Definition

_SHOWN = ("corolla_images_total", "corolla_batch_rows", "corolla_batch_adapters")
COUNTED: tuple[Definition, ...] = (
    *SECTIONS["Access"],
    *(definition for definition in DEFINITIONS if definition.name in _SHOWN),
    *SECTIONS["Predictions"],
    *SECTIONS["Estimates"],
    *SECTIONS["Frozen share"],
    *SECTIONS["Ensembles"],
)
"""The metrics that TorchServe's endpoint carries; of a histogram, its sum and its count."""

# TorchServe's lines of metrics separate with these, and it drops a label with one of them in its value.
_SEPARATORS = str.maketrans({":": "~", ",": "~", "|": "~"})


def counters() -> Iterator[tuple[str, tuple[str, ...]]]:
    """The counters that TorchServe has to know, and their labels."""
    for definition in COUNTED:
        names = [definition.name]
        if definition.kind == "histogram":
            names = [f"{definition.name}_sum", f"{definition.name}_count"]
        for name in names:
            yield name, definition.labels


Gain = tuple[str, tuple[str, ...], float]
"""A counter, its label values, and what it grew by."""


class Gains:
    """What the counters of a registry grew by since they were last read."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._labels = dict(counters())
        self._read: dict[tuple[str, tuple[str, ...]], float] = {}

    def read(self) -> list[Gain]:
        """Those that grew, and new ones at 0, so that their first step is not lost to `rate()`.

        TorchServe adds them up, over all workers and over restarts of one.
        """
        gains = []
        for name, values, value in self._samples():
            before = self._read.get((name, values))
            if before != value:
                self._read[name, values] = value
                labels = tuple(text.translate(_SEPARATORS) for text in values)
                gains.append((name, labels, value - (before or 0.0)))
        return gains

    def _samples(self) -> Iterable[Gain]:
        for family in self._registry.collect():
            for sample in family.samples:
                if sample.name in self._labels:
                    values = tuple(sample.labels[label] for label in self._labels[sample.name])
                    yield sample.name, values, sample.value
