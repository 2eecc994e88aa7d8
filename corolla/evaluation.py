"""Measuring routes on labelled images without a server: from names to numbers.

What computes is imported once the names are known to exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from model_store.resolution.answering import answering
from model_store.resolution.versions import ResolvedRoute, resolve
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit.image_input import MAX_PIXELS
from petl_vit.precision import Precision
from training.data import shift

if TYPE_CHECKING:
    from training.data.records import Dataset
    from training.measure.evaluation import Candidate, Measured
    from training.progress import Reporter

_LIMIT_SEED = 2**31
"""No seed of a split, as what such a seed ranks first is what `train --limit` trains on."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is to be measured, on what.

    Attributes:
        routes: Routes, or names of routes.
        data: Sets of labelled images, as `training.data.sources.load_dataset` opens them.
        shifts: Also under these, as `training.data.shift.parse_all` reads them.
        holdout: Only the images that training with this share holds out, but for those that the routes were
            trained on; None is all.
        limit: At most so many images of each set.
        max_pixels, skip_bad: How images are read, as `training.data.reading.Reading` says.
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
    max_pixels: int = MAX_PIXELS
    skip_bad: bool = False
    extrapolate: bool = False
    backbone: str | None = None
    device: str = "auto"
    precision: str = "auto"


def evaluate(store: Store, what: Evaluation, reporter: "Reporter") -> "list[Measured]":
    """Measures every route on every set under every shift; the rows in that order.

    Raises:
        NotFound: A route, the task, the backbone or the data do not exist.
        InvalidInput: A route, a shift or the data cannot work; names it. Or routes were trained on most of
            the images that would be held out.
    """
    record = store.backbones.get(what.backbone)
    under = [None, *shift.parse_all(what.shifts)]
    named = [_resolved(store, what, text, record.digest, reporter) for text in what.routes]

    from model_store.resolution.loading import Loader
    from model_store.resolution.precision import checked, subjects
    from petl_vit.device import chosen_device, use_threads
    from training.measure.evaluation import Candidate, measure_all

    candidates = [Candidate(route=route, temperature=temperature) for route, temperature in named]
    datasets = [_dataset(store, source, what, candidates, reporter) for source in what.data]
    use_threads()
    exact = Loader(store, record, device=chosen_device(what.device))
    members = (member for candidate in candidates for member in candidate.route.members)
    loader = checked(Precision(what.precision), exact, subjects(members), reporter.note)
    on_each = []
    for dataset in datasets:
        title = str(candidates[0].route) if len(candidates) == 1 else f"{len(candidates)} routes"
        total = len(candidates) * len(under) * len(dataset)
        with reporter.stage(f"{title} on {dataset.name}", total) as advance:
            rows = measure_all(loader, candidates, dataset, under=under, advance=advance)
        on_each.append(_with_learnt(store, candidates, dataset, rows))
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


def _dataset(
    store: Store, source: str, what: Evaluation, candidates: "Sequence[Candidate]", reporter: "Reporter"
) -> "Dataset":
    """The images to measure on: with a holdout, none that any of the routes was trained on."""
    from training.data.dataset import split_dataset, subset
    from training.data.learnt import Overlap, by_adapters
    from training.data.reading import Reading
    from training.data.sources import load_dataset
    from training.run.training_data import unlearnt_by

    reading = Reading(max_pixels=what.max_pixels, skip_bad=what.skip_bad, reporter=reporter)
    dataset = load_dataset(source, reading=reading)
    terms = [term for one in candidates for term in one.route.terms()]
    if what.holdout is not None:
        dataset = split_dataset(dataset, holdout=what.holdout, seed=what.split_seed)[1]
        dataset = unlearnt_by(
            store,
            terms,
            dataset,
            reporter.note,
            field="holdout",
            remedy="give the --data, --holdout and --split-seed of their training, which `corolla adapters "
            "show` prints",
        )
    if what.limit is not None:
        dataset = subset(dataset, min(what.limit, len(dataset)), _LIMIT_SEED)
    overlap = Overlap(dataset, by_adapters(store, terms))
    if len(overlap):
        reporter.note(
            f"{len(overlap)} of the {len(dataset)} images of {dataset.name} are training images of "
            f"{overlap.names}: accuracy on them says nothing of new images; --holdout leaves them out"
        )
    return dataset


def _with_learnt(
    store: Store, candidates: "Sequence[Candidate]", dataset: "Dataset", rows: "list[list[Measured]]"
) -> "list[list[Measured]]":
    """The rows of each candidate, with how many of the images it was trained on."""
    from training.data.learnt import Overlap, by_adapters

    counts = [len(Overlap(dataset, by_adapters(store, one.route.terms()))) for one in candidates]
    return [
        [replace(row, trained_on=count) for row in of_one] for of_one, count in zip(rows, counts, strict=True)
    ]
