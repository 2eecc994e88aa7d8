"""Features: what the backbone pools of images, through the same queue as classification.

Rows of both share forwards; they differ in what is read out. Knows neither protobuf nor gRPC.

Shapes: D width of the backbone.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model_store.names import BASE
from model_store.resolution.versions import ResolvedRoute
from model_store.routes.algebra import AdapterRef, Entry, Model, Route, Term
from petl_vit.batch import Features
from petl_vit.batch import Model as Runnable
from petl_vit.errors import CorollaError, InvalidInput
from serving.answer.classifier import Classifier, Computed
from serving.request import BadScores, Embeddings, Request

T = TypeVar("T")

FROZEN = Route(entries=(Entry(model=Model(terms=(Term(adapter=AdapterRef(name=BASE)),))),))
"""The frozen backbone."""


async def embed(
    classifier: Classifier, request: Request, finish: Callable[[Embeddings], T], *, unit: bool
) -> T:
    """Embeds every image under the request's one model, or says of each what is wrong with it.

    Args:
        finish: Turns the answer into what its protocol sends; runs in the pool.
        unit: Whether vectors are divided by their length.

    Raises:
        InvalidInput: An ensemble, which has no features; or as `Classifier.classify`.
        NotFound, Corrupt, Overloaded, Expired, Draining: As `Classifier.classify`.
    """
    with classifier.accepted():
        plan = await classifier.plan(request)
        _check_single(plan.resolved)
        computed = await classifier.compute(request, plan, _features)
        return await classifier.in_pool(lambda: finish(_answer(classifier, plan.resolved, computed, unit)))


def _features(model: Runnable) -> Features:
    return Features(model.terms)


def _check_single(resolved: ResolvedRoute) -> None:
    if len(resolved.members) > 1:
        raise InvalidInput(
            f"{resolved} has {len(resolved.members)} members, and features are of one model",
            field="route",
            remedy="name one adapter, or a sum such as `0.5*a + 0.5*b`",
        )


def _answer(classifier: Classifier, resolved: ResolvedRoute, computed: Computed, unit: bool) -> Embeddings:
    images = [_vector(features, resolved, unit) for features in computed.logits]
    classifier.count(images)
    return Embeddings(images=images, resolved=resolved, timings=computed.timings)


def _vector(
    output: list[NDArray[np.float64]] | CorollaError, resolved: ResolvedRoute, unit: bool
) -> NDArray[np.float32] | CorollaError:
    if isinstance(output, CorollaError):
        return output
    (features,) = output
    if not np.isfinite(features).all():
        return BadScores(
            f"{resolved} gave features that are not finite",
            remedy="look at the image's values and at alpha, then at the adapter's training",
        )
    length = float(np.linalg.norm(features))
    return (features / length if unit and length > 0 else features).astype(np.float32)
