"""Measuring routes on labelled images without a server: from names to numbers.

What computes is imported once the names are known to exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_store.resolution.answering import answering
from model_store.resolution.versions import ResolvedRoute, resolve
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit.precision import Precision
from training.data import shift

if TYPE_CHECKING:
    from training.data.records import Dataset
    from training.measure.evaluation import Measured
    from training.progress import Reporter


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is to be measured, on what.

    Attributes:
        routes: Routes, or names of routes.
        data: Sets of labelled images, as `training.data.sources.load_dataset` opens them.
        shifts: Also under these, as NAME:SEVERITY.
        holdout: Only the images that training with this share holds out; None is all.
        limit: At most so many images of each set.
        backbone: Name or digest; None is the only one.
        device, precision: What the backbone runs on, and computes in.
    """

    routes: Sequence[str]
    data: Sequence[str]
    task: str
    shifts: Sequence[str] = ()
    holdout: float | None = None
    split_seed: int = 0
    limit: int | None = None
    extrapolate: bool = False
    backbone: str | None = None
    device: str = "auto"
    precision: str = "auto"


def evaluate(store: Store, what: Evaluation, reporter: "Reporter") -> "list[Measured]":
    """Measures every route on every set under every shift; the rows in that order.

    Raises:
        NotFound: A route, the task, the backbone or the data do not exist.
        InvalidInput: A route, a shift or the data cannot work; names it.
    """
    record = store.backbones.get(what.backbone)
    under = [None, *map(shift.parse, what.shifts)]
    named = [_resolved(store, what, text, record.digest, reporter) for text in what.routes]

    from model_store.resolution.loading import Loader
    from model_store.resolution.precision import checked, subjects
    from petl_vit.device import chosen_device, use_threads
    from training.measure.evaluation import Candidate, measure_all

    candidates = [Candidate(route=route, temperature=temperature) for route, temperature in named]
    datasets = [_dataset(source, what) for source in what.data]
    use_threads()
    exact = Loader(store, record, device=chosen_device(what.device))
    members = (member for candidate in candidates for member in candidate.route.members)
    loader = checked(Precision(what.precision), exact, subjects(members), reporter.note)
    on_each = []
    for dataset in datasets:
        title = str(candidates[0].route) if len(candidates) == 1 else f"{len(candidates)} routes"
        total = len(candidates) * len(under) * len(dataset)
        with reporter.stage(f"{title} on {dataset.name}", total) as advance:
            on_each.append(measure_all(loader, candidates, dataset, under=under, advance=advance))
    return [row for of_route in zip(*on_each, strict=True) for rows in of_route for row in rows]


def _resolved(
    store: Store, what: Evaluation, text: str, backbone: str, reporter: "Reporter"
) -> tuple[ResolvedRoute, float]:
    """The versions that a named route of that name, else the text as a route, means; and its temperature."""
    route = parse_route(text)
    named = store.routes.meant_by(what.task, route)
    if named is not None:
        now = answering(store, named, backbone)
        if now.note:
            reporter.note(f"route {named.name}: {now.note}")
        return now.resolved, now.temperature
    resolved = resolve(
        route, task=what.task, store=store, backbone_digest=backbone, extrapolate=what.extrapolate
    )
    return resolved, 1.0


def _dataset(source: str, what: Evaluation) -> "Dataset":
    from training.data.dataset import split_dataset, subset
    from training.data.sources import load_dataset

    dataset = load_dataset(source)
    if what.holdout is not None:
        dataset = split_dataset(dataset, holdout=what.holdout, seed=what.split_seed)[1]
    return dataset if what.limit is None else subset(dataset, min(what.limit, len(dataset)), 0)
