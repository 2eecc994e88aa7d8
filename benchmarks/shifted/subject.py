"""What is watched: routes of a store, the images of their references, and those of the streams."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.shifted.domains import Asking, Domain
from corolla.candidates import Chooser
from corolla.evaluation import Measurement, images
from model_store.format.reference import FEWEST
from model_store.resolution.loading import Loader
from model_store.resolution.precision import checked, subjects
from model_store.store import Store
from petl_vit.device import chosen_device, use_threads
from petl_vit.errors import InvalidInput
from petl_vit.precision import Precision
from training.data import shift
from training.data.dataset import split_dataset
from training.measure.candidate import Candidate
from training.measure.logit_store import LogitStore, default_folder
from training.measure.set_names import set_names
from training.progress import Reporter


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What is watched, and what everything says.

    Attributes:
        routes: As they answer, with their temperatures.
        heldout: The images of the first set, in distribution; all of them, for splits of one's own.
        reference: Those of them that references are made on.
        unshifted: The others.
        shifted: The same others under shifts, then the other sets.
        precision: What everything was computed in.
    """

    routes: Sequence[Candidate]
    heldout: Domain
    reference: Domain
    unshifted: Domain
    shifted: Sequence[Domain]
    precision: Precision


def subject(store: Store, what: Measurement, *, streamed: float, reporter: Reporter) -> Subject:
    """Asks every member for every image.

    Args:
        what: The first set is in distribution; shifts are put on its streamed images alone.
        streamed: Share of the first set's images that streams are made of.
    """
    record = store.backbones.get(what.backbone)
    chooser = Chooser(
        store=store, task=what.task, backbone=record.digest, extrapolate=False, note=reporter.note
    )
    routes = chooser.chosen(what.routes)
    if not all(route.several for route in routes):
        raise InvalidInput("every route needs several members", field="route", remedy="name ensembles")
    datasets = images(store, what, routes, reporter)
    use_threads()
    exact = Loader(store, record, device=chosen_device(what.device))
    members = (member for one in routes for member in one.route.members)
    loader = checked(Precision(what.precision), exact, subjects(members), reporter.note)
    asking = Asking(
        loader=loader,
        routes=[one.route for one in routes],
        store=LogitStore(what.logits or default_folder(), again=what.again),
    )
    names = [set_names(datasets, [None])[place, 0] for place in range(len(datasets))]
    (heldout,) = asking.under(datasets[0], [(names[0], None)], reporter)
    kept, drawn = split_dataset(datasets[0], holdout=streamed, seed=0)
    if min(len(kept), len(datasets[0]) // 2) < FEWEST:
        raise InvalidInput(
            f"{len(datasets[0])} held-out images are too few: {len(kept)} would make the reference",
            field="data",
            remedy=f"give {4 * FEWEST} or more",
        )
    places = {one: place for place, one in enumerate(datasets[0].fingerprints)}
    under = [(f"{name}:{severity}", (name, severity)) for name, severity in shift.parse_all(what.shifts)]
    shifted = asking.under(drawn, under, reporter) if under else []
    for name, dataset in zip(names[1:], datasets[1:], strict=True):
        shifted += asking.under(dataset, [(name, None)], reporter)
    return Subject(
        routes=routes,
        heldout=heldout,
        reference=heldout.part(np.array([places[one] for one in kept.fingerprints])),
        unshifted=heldout.part(np.array([places[one] for one in drawn.fingerprints])),
        shifted=shifted,
        precision=loader.precision,
    )


def calibrated(route: Candidate, temperature: float) -> Candidate:
    """A route with another temperature."""
    return replace(route, temperature=temperature)
