"""Confusion matrices of references, from a store: too large for gauges, and needed by BBSE alone."""

from collections.abc import Sequence
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

    def of_route(self, route: str) -> Sequence[Reference]:
        """Those of a route, by its digest."""
        ...


class Confusions:
    """Reads each matrix once; one that a store does not have is looked for again at every new reference."""

    def __init__(self, references: Stored) -> None:
        self._references = references
        self._known: dict[tuple[str, str], Confusion | None] = {}
        self.problem = ""

    def of(self, values: ReferenceValues) -> Confusion | None:
        """The matrix behind what servers say of a reference; None where the store has none.

        A store that cannot be read is a `problem`, and is read again at the next call.
        """
        key = (values.digest, values.data)
        if key not in self._known:
            try:
                stored = self._references.of_route(values.digest)
            except (CorollaError, OSError) as error:
                self.problem = f"the store's confusion matrix of {values.digest[:12]} cannot be read: {error}"
                return None
            self.problem = ""
            matching = [one for one in stored if values.data in (one.data.digest, one.data.name)]
            self._known[key] = _matrix(matching[0]) if matching else None
        return self._known[key]


def _matrix(reference: Reference) -> Confusion:
    size = len(reference.classes)
    images = np.zeros((size, size))
    for truth, answer, count in reference.confusion:
        images[answer, truth] = count
    return Confusion(classes=tuple(map(class_label, reference.classes)), images=images)
