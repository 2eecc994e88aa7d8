"""What the answers of a named route are scored by: the thresholds and the features of its reference."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from model_store.format.reference import Reference, ReferenceFeatures
from petl_vit import foreign
from petl_vit.estimators import SCORES

FARTHEST = 1000.0
"""The greatest distance that is told: where all reference images are alike, others are infinitely far."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Of one reference.

    Attributes:
        route: The digest of what it is of: nothing else is scored by it.
        thresholds: By the names of `petl_vit.estimators.SCORES`; none where all of the reference's answers
            were right or none was, so that no number tells.
        features: None where the reference has none.
    """

    route: str
    thresholds: Mapping[str, float]
    features: ReferenceFeatures | None

    @classmethod
    def of(cls, reference: Reference) -> Self:
        thresholds = {name: reference.threshold(name) for name in SCORES.keys() & reference.atc.keys()}
        return cls(
            route=reference.route.digest,
            thresholds={name: least for name, least in thresholds.items() if math.isfinite(least)},
            features=reference.features,
        )

    def distance(self, features: NDArray[np.float64]) -> float | None:
        """How far finite features [D] are, in units of what 95 % of the reference images do not exceed.

        None where the reference has no features, or those of another backbone.
        """
        if self.features is None or len(self.features.mean) != len(features):
            return None
        return min(float(foreign.ratio(self.features, features[None])[0]), FARTHEST)
