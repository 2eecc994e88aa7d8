"""What a route says of labelled images, as every measurement has it."""

from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedRoute
from training.data.dataset import align_classes
from training.data.records import Dataset
from training.measure.candidate import Candidate
from training.measure.logits import Shift, logits_of_routes
from training.measure.scores import Scored, scored


def said(
    loader: Loader,
    route: ResolvedRoute,
    dataset: Dataset,
    *,
    shift: Shift | None = None,
    temperature: float = 1.0,
) -> Scored:
    """Its answers; labels are matched by name."""
    aligned = align_classes(dataset, route.classes)
    logits = logits_of_routes(loader, [route], aligned, shift=shift)
    return scored(Candidate(route=route, temperature=temperature), logits, aligned.labels.numpy())
