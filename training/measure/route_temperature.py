"""The temperature of a route, an ensemble too, on labelled images.

Shapes: n images, K members, C classes.
"""

from collections.abc import Callable

import torch

from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedRoute
from petl_vit.combine import Combine
from petl_vit.errors import InvalidInput, Unsupported
from training.data.dataset import align_classes
from training.data.records import Dataset
from training.measure.calibration import FEWEST, fit_temperature
from training.measure.logit_store import LogitStore
from training.measure.logits import logits_of_routes, weights_of


def fit_route(
    loader: Loader,
    route: ResolvedRoute,
    dataset: Dataset,
    *,
    store: LogitStore | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> float:
    """The temperature that divides a route's combined logits.

    Args:
        dataset: Its classes are matched to the route's by name.
        store: Where logits are taken from and kept; None computes everything.
        advance: Called with the number of images that are done.

    Raises:
        InvalidInput: There are too few images, or the route answers all of them rightly: then the likelihood
            rises as the temperature falls to 0. Or the classes differ.
        Unsupported: The members' answers are not combined by their logits.
    """
    if route.combine is not Combine.MEAN:
        raise Unsupported(
            f"`{route.combine}` does not combine logits, which a fitted temperature divides",
            field="route",
            remedy="put the route with a --temperature of yours",
        )
    dataset = align_classes(dataset, route.classes)
    if len(dataset) < FEWEST:
        raise InvalidInput(
            f"{len(dataset)} images are fewer than {FEWEST}, too few to tell a temperature",
            field="data",
            remedy="give more: a larger --holdout, or --all-images where nothing was trained on them",
        )
    logits = logits_of_routes(loader, [route], dataset, store=store, advance=advance)
    z = torch.from_numpy(logits.stacked(route).mean(weights_of(route)))
    if bool((z.argmax(dim=-1) == dataset.labels).all()):
        raise InvalidInput(
            f"there is no error among the {len(dataset)} images, which then do not tell a temperature",
            field="data",
            remedy="give images that are harder, or more of them",
        )
    return fit_temperature(z, dataset.labels)
