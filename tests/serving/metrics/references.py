"""References of plans, with thresholds and features, as a server scores answers by them."""

import numpy as np

from model_store.format.reference import RandomFeatureMean, Reference, ReferenceFeatures, ReferenceThreshold
from model_store.resolution.reference import referenced_route
from petl_vit import foreign
from serving.registry.catalog import Plan
from tests.model_store.references import usable_of

THRESHOLD = -0.7


def reference_of(plan: Plan, features: np.ndarray) -> Reference:
    """Of what a plan answers by, on images of these frozen features [n, D]."""
    mean, variance = features.mean(axis=0), features.var(axis=0)
    distances = foreign.standardised(mean, variance, features)
    statistics = ReferenceFeatures(
        mean=tuple(mean.tolist()),
        variance=tuple(variance.tolist()),
        distance=float(np.quantile(distances, foreign.SHARE)),
        random=RandomFeatureMean(seed=0, bandwidth=1.0, mean=(0.0,)),
    )
    atc = {name: ReferenceThreshold(threshold=THRESHOLD, estimate=0.5) for name in ("atc_mc", "atc_ne")}
    route = referenced_route(plan.resolved, plan.temperature, cascade=plan.cascade)
    return usable_of(route, features=statistics, atc=atc)
