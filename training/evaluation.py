"""Measures routes on labelled images, in this process, through the rows that serve them.

Shapes: n images, K members, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model_store.loading import Loader, models
from model_store.resolution import ResolvedRoute
from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Row
from petl_vit.combine import combine
from petl_vit.preprocess import normalise
from training import data, shifts
from training.images import Resized

_ROWS = 32
_IMAGES = 1024  # decoded at a time, so that any set fits in memory


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A route on one set of images."""

    route: str
    data: str
    images: int
    accuracy: float
    confidence: float
    agreement: float
    member_accuracies: dict[str, float]


def measure(
    loader: Loader,
    resolved: ResolvedRoute,
    dataset: data.Dataset,
    *,
    shift: tuple[str, int] | None = None,
    temperature: float = 1.0,
    advance: Callable[[int], None] = lambda n: None,
) -> Measured:
    """Accuracy, mean confidence and agreement of a route.

    Args:
        dataset: Its classes are matched to the route's by name.
        shift: A corruption and its severity, applied after resizing.
        advance: Called with the number of images that are done.

    Raises:
        InvalidInput: The classes differ, or two members take their images differently.
    """
    dataset = data.align(dataset, resolved.classes)
    logits = _logits(loader, resolved, dataset, shift, advance)
    weights = np.array([member.weight for member in resolved.members])
    answer = combine(logits, weights, rule=resolved.combine, temperature=temperature)
    labels = dataset.labels.numpy()
    return Measured(
        route=str(resolved),
        data=dataset.name if shift is None else f"{dataset.name} {shift[0]}:{shift[1]}",
        images=len(labels),
        accuracy=float((answer.predicted == labels).mean()),
        confidence=float(answer.probabilities.max(axis=-1).mean()),
        agreement=float(answer.agreement.mean()),
        member_accuracies={
            name: float((answer.votes[:, k] == labels).mean()) for k, name in enumerate(_names(resolved))
        },
    )


def _logits(
    loader: Loader,
    resolved: ResolvedRoute,
    dataset: data.Dataset,
    shift: tuple[str, int] | None,
    advance: Callable[[int], None],
) -> NDArray[np.float64]:
    """[n, K, C] in the answer's class order."""
    spec = resolved.task.spec.preprocess
    adapters: dict[str, Adapter] = {term.digest: loader.adapter(term) for term in resolved.terms()}
    members = models(resolved.members, adapters)
    orders = [resolved.class_order(member) for member in resolved.members]
    vit = loader.vit(spec.image_size)
    images, batch, found = Resized(dataset, spec, vit, kept_bytes=0), Batch(vit), []
    for part in images.batches(_IMAGES):
        pixels = images.pixels(part)
        if shift is not None:
            pixels = shifts.apply(pixels, *shift, seed=int(part[0]))
        for chunk in pixels.split(max(1, _ROWS // len(members))):
            inputs = normalise(chunk, spec).to(device=vit.device, dtype=vit.dtype)
            rows = [Row(image=i, model=model) for i in range(len(chunk)) for model in members]
            logits = torch.stack(batch.logits(inputs, rows)).view(len(chunk), len(members), -1)
            found.append(logits.double().cpu().numpy())
            advance(len(chunk))
    stacked = np.concatenate(found)
    for k, order in enumerate(orders):
        if order is not None:
            stacked[:, k] = stacked[:, k][:, list(order)]
    return stacked


def _names(resolved: ResolvedRoute) -> list[str]:
    """The members, each with its task where they belong to several."""
    tasks = [member.task.spec.name for member in resolved.members]
    if len(set(tasks)) == 1:
        return [str(member) for member in resolved.members]
    return [f"{task}/{member}" for task, member in zip(tasks, resolved.members, strict=True)]
