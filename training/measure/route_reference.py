"""The references of routes on labelled images: their members' logits, and the frozen features of the images.

Shapes: n images, D the backbone's width.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from model_store.format.reference import Reference, ReferenceData
from model_store.resolution.loading import Loader
from model_store.resolution.reference import referenced_route
from model_store.resolution.versions import ResolvedRoute
from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Features, Term
from petl_vit.logits import images_at_once, logits_over
from training.data.dataset import align_classes
from training.data.loading import Resized
from training.data.records import Dataset
from training.measure.arrays import Floats, Labels
from training.measure.candidate import Candidate
from training.measure.logit_store import LogitStore
from training.measure.logits import logits_of_routes
from training.measure.reference import Observed, reference


def references(
    loader: Loader,
    candidates: Sequence[Candidate],
    dataset: Dataset,
    *,
    store: LogitStore | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Reference]:
    """What each route does on the images.

    Args:
        candidates: With the temperatures and thresholds that they answer by. All prepare images alike.
        dataset: Its classes are matched to each route's by name.
        store: Where logits are taken from and kept.
        advance: Called with the number of images that are done; the features count once more.

    Raises:
        InvalidInput: The classes differ, or a member's logits are not finite.
    """
    aligned = [align_classes(dataset, one.route.classes) for one in candidates]
    routes = [one.route for one in candidates]
    logits = logits_of_routes(loader, routes, dataset, store=store, advance=advance)
    features = frozen_features(loader, routes[0], dataset, advance)
    base = [_base_answers(loader, one.route, features) for one in candidates]
    data = ReferenceData(name=dataset.name, digest=dataset.digest, images=len(dataset))
    return [
        reference(
            Observed(
                logits=logits.stacked(one.route), labels=images.labels.numpy(), features=features, base=alone
            ),
            route=referenced_route(one.route, one.temperature, name=one.name, cascade=one.cascade),
            data=data,
            classes=one.route.classes,
            precision=loader.precision,
        )
        for one, images, alone in zip(candidates, aligned, base, strict=True)
    ]


def frozen_features(
    loader: Loader, route: ResolvedRoute, dataset: Dataset, advance: Callable[[int], None] = lambda n: None
) -> Floats:
    """[n, D]: what the frozen backbone makes of images as a route takes them."""
    vit = loader.vit(route.preprocess.image_size)
    base = Adapter.base(base_head=loader.base_head(route.task), task_digest=route.task.digest)
    images = Resized(dataset, route.preprocess, vit)
    batches = (images.batch(indices) for indices in images.batches(images_at_once(1)))
    (features,) = logits_over(Batch(vit), [Features([Term(adapter=base)])], batches, advance)
    return features.double().numpy().astype(np.float64)


def _base_answers(loader: Loader, route: ResolvedRoute, features: Floats) -> Labels:
    """[n]: the classes that the base head of a route's task names."""
    logits = loader.base_head(route.task).logits(torch.from_numpy(features))
    return logits.argmax(dim=-1).numpy()
