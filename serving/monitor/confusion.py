"""Confusion matrices of references, from a store: too large for gauges, and needed by BBSE alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model_store.format.reference import Reference
from petl_vit.errors import CorollaError
from serving.metrics.top_classes import class_label
from serving.monitor.look import ReferenceValues


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How the answers of a reference are distributed.

    Attributes:
        classes: As labels of metrics, in the order of the matrix.
        images: [C, C], by answered class (rows) and true class (columns).
    """

    classes: tuple[str, ...]
    images: NDArray[np.float64]


class Stored(Protocol):
    """The references of a store."""

    def stamps(self) -> Mapping[tuple[str, str], object]:
        """The digests of the routes and the data of all, without reading one."""
        ...

    def get(self, route: str, data: str) -> Reference | None:
        """One, by its digests."""
        ...


class Confusions:
    """Reads each matrix once; one that a store does not have is looked for again at every new reference.

    Servers show the first digits of digests.
    """

    def __init__(self, references: Stored) -> None:
        self._references = references
        self._known: dict[str, Confusion | None] = {}
        self.problem = ""

    def of(self, values: ReferenceValues) -> Confusion | None:
        """The matrix behind what servers say of a reference; None where the store has none.

        A store that cannot be read is a `problem`, and is read again at the next call.
        """
        key = values.identity
        if key not in self._known:
            try:
                matching = self._stored(values)
            except (CorollaError, OSError) as error:
                self.problem = f"the store's confusion matrix cannot be read: {error}"
                return None
            self.problem = ""
            self._known[key] = None if matching is None else _matrix(matching)
        return self._known[key]

    def _stored(self, values: ReferenceValues) -> Reference | None:
        for route, data in self._references.stamps():
            if route.startswith(values.digest) and data.startswith(values.data):
                return self._references.get(route, data)
        return None


def _matrix(reference: Reference) -> Confusion:
    size = len(reference.classes)
    images = np.zeros((size, size))
    for truth, answer, count in reference.confusion:
        images[answer, truth] = count
    return Confusion(classes=tuple(map(class_label, reference.classes)), images=images)
